"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml


@contextmanager
def written_whole(path: Path) -> Iterator[IO[str]]:
    """A file to write text into; it takes the place of `path` when all of it is on the disk, or leaves it as it was."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write values as indented JSON, whole or not at all."""
    with written_whole(path) as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.write("\n")


def write_yaml(path: Path, content: Any) -> None:
    """Write values as YAML, whole or not at all."""
    with written_whole(path) as file:
        yaml.safe_dump(content, file, sort_keys=False, allow_unicode=True)


def sync(path: Path) -> None:
    """Wait until a file, or all files of a folder, and their names are on the disk."""
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        _fsync(one)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
