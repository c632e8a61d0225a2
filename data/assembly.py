"""From finished parts to one stream for each split."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gecko_lab.data.errors import DataError
from gecko_lab.data.parts import HASHES_FILE, LENGTHS_FILE, FinishedPart, chunk_path, write_synced
from gecko_lab.data.split import SPLITS
from gecko_lab.data.stream import CHECKSUMS_FILE, INDEX_FILE

_COPY_BYTES = 1 << 20


def assemble(parts: Sequence[FinishedPart], folder: Path) -> dict[str, dict[str, Any]]:
    """Moves the chunks of the parts into a folder for each split and writes what belongs to them.

    The result depends on the parts alone. Killed at any moment, it can be done again: chunks that were moved are found
    where they are.

    Arguments:
        parts: all of them, in order; their folders stand in `folder`.
        folder: of the dataset to be.

    Returns:
        For each split `documents`, `tokens`, `bytes` and `content_hash`, of its documents in their order and
        of the split's seed.

    Raises:
        DataError: what lies there is not what was written.
        OSError: it cannot be written.
    """
    return {name: _assemble_split(parts, folder, name) for name in SPLITS}


def _assemble_split(parts: Sequence[FinishedPart], folder: Path, split: str) -> dict[str, Any]:
    target = folder / split
    target.mkdir(exist_ok=True)
    entries, checksums = [], {}
    for part in parts:
        for chunk in part.splits[split]["chunks"]:
            entry = dict(chunk)
            filename = entry["filename"]
            checksums[filename] = entry.pop("checksum")
            entries.append(entry)
            path = chunk_path(folder, part.part, split, filename)
            if path is None:
                raise DataError(f"{target / filename} has disappeared; run again.")
            if path.parent != target:
                os.rename(path, target / filename)
            if (target / filename).stat().st_size != entry["chunk_bytes"]:
                raise DataError(f"{target / filename} was changed; remove {folder} and run again.")
    counts = {name: sum(part.splits[split][name] for part in parts) for name in ("documents", "tokens", "bytes")}
    num_bytes = _concatenate(folder, parts, split, target / LENGTHS_FILE)
    if sum(entry["dim"] for entry in entries) != counts["tokens"] or num_bytes != 8 * counts["documents"]:
        raise DataError(f"{target} does not hold the {counts['tokens']} tokens that were written; run again.")
    content_hash = _content_hash(folder, parts, split)
    config = next((part.splits[split]["config"] for part in parts if part.splits[split]["config"]), None)
    # LitData keeps copies of remote chunks under `updated_at`, by default the time.
    updated = {"updated_at": content_hash} if entries else {}
    _write_json(target / INDEX_FILE, {"chunks": entries, "config": config, **updated})
    _write_json(target / CHECKSUMS_FILE, checksums)
    expected = {*checksums, INDEX_FILE, CHECKSUMS_FILE, LENGTHS_FILE}
    for path in target.iterdir():  # left by a part that was prepared twice
        if path.name not in expected:
            path.unlink()
    sync_folder(target)
    return {**counts, "content_hash": content_hash}


def _concatenate(folder: Path, parts: Sequence[FinishedPart], split: str, target: Path) -> int:
    """Writes the lengths of all documents and returns how many bytes they take."""
    with target.open("wb") as file:
        for piece in _pieces(folder, parts, split, LENGTHS_FILE):
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _content_hash(folder: Path, parts: Sequence[FinishedPart], split: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for piece in _pieces(folder, parts, split, HASHES_FILE):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(folder: Path, parts: Sequence[FinishedPart], split: str, name: str) -> Iterator[bytes]:
    for part in parts:
        with (folder / part.part.folder_name / split / name).open("rb") as file:
            while piece := file.read(_COPY_BYTES):
                yield piece


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_synced(path, json.dumps(content, sort_keys=True).encode())


def sync_folder(folder: Path) -> None:
    """Waits until the folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
