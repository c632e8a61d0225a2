"""From what the user names (files, folders, globs, `stdlib`) to the list of files that are read."""

from __future__ import annotations

import glob
import os
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gecko_lab.data.errors import DataError, suggestion

STANDARD_LIBRARY = "stdlib"
FILE_TYPES = (".txt", ".md", ".py", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")

# Tests and vendored packages repeat themselves, and what else is installed differs from machine to machine.
_STANDARD_LIBRARY_EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
# Topics are read as documents of English, not as the Python literal that holds them.
_TOPICS = Path("pydoc_data", "topics.py")


@dataclass(frozen=True)
class SourceFile:
    """A file to read.

    Attributes:
        path: where it is.
        file_type: one of `FILE_TYPES`, or `topics` for the help texts of the standard library.
        name: what stands for the path in the dataset's key: the same wherever the standard library is installed.
        size: bytes on disk.
        modified: time of the last change, nanoseconds; 0 for the standard library, which its version and sizes tell.
    """

    path: Path
    file_type: str
    name: str
    size: int
    modified: int


def resolve_sources(sources: str | Sequence[str]) -> list[SourceFile]:
    """The files behind `sources`, each once, in the order named; folders and globs sorted by path.

    Arguments:
        sources: each the path of a file, a folder (read recursively: the files of `FILE_TYPES` that are not hidden), a
            glob (`**` for any folders), or `stdlib`.

    Raises:
        DataError: a path that is missing, a glob or folder without files, a file of an unknown type.
    """
    specifications = [sources] if isinstance(sources, str) else list(sources)
    if not specifications:
        raise DataError("sources: the list is empty; name files, folders, globs, or 'stdlib'.")
    files: dict[Path, SourceFile] = {}
    for specification in specifications:
        for file in _resolve(specification):
            files.setdefault(file.path.resolve(), file)
    return list(files.values())


def _resolve(specification: str) -> Iterator[SourceFile]:
    path = Path(specification).expanduser()
    if specification == STANDARD_LIBRARY:
        yield from _standard_library()
    elif path.is_dir():
        yield from _folder(path, specification)
    elif path.exists():
        yield _file(path, specification)
    elif glob.has_magic(specification):
        yield from _glob(specification)
    else:
        try:
            beside = [str(path.parent / name) for name in os.listdir(path.parent)]
        except OSError:
            beside = []
        raise DataError(
            f"sources: {specification!r} does not exist (looked in {Path.cwd()}).{suggestion(str(path), beside)} "
            "Valid are files, folders and globs, and 'stdlib', the standard library of this Python."
        )


def _folder(folder: Path, specification: str) -> Iterator[SourceFile]:
    found = False
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and file_type(path) is not None and path.is_file():
                found = True
                yield _file(path, specification)
    if not found:
        raise DataError(
            f"sources: the folder {specification!r} holds no file of a known type ({', '.join(FILE_TYPES)})."
        )


def _glob(pattern: str) -> Iterator[SourceFile]:
    paths = [Path(p) for p in sorted(glob.glob(os.path.expanduser(pattern), recursive=True))]
    files = [path for path in paths if path.is_file()]
    if not files:
        raise DataError(f"sources: no file matches the glob {pattern!r} (looked in {Path.cwd()}).")
    for path in files:
        yield _file(path, pattern)


def _file(path: Path, specification: str) -> SourceFile:
    kind = file_type(path)
    if kind is None:
        named_by = "" if specification == str(path) else f", which {specification!r} names,"
        raise DataError(f"sources: {path}{named_by} is of an unknown type. Valid are {', '.join(FILE_TYPES)}.")
    if not os.access(path, os.R_OK):
        raise DataError(f"sources: {path} cannot be read (permission denied).")
    status = path.stat()
    return SourceFile(path, kind, str(path.resolve()), status.st_size, status.st_mtime_ns)


def file_type(path: Path) -> str | None:
    """Which of `FILE_TYPES` the file's name ends in, or None."""
    name = path.name.lower()
    return next((ending for ending in FILE_TYPES if name.endswith(ending) and name != ending), None)


def _standard_library() -> Iterator[SourceFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = f"python-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    found = False
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _STANDARD_LIBRARY_EXCLUDED)
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix == ".py" and path.is_file():
                found = True
                relative = path.relative_to(root)
                kind = "topics" if relative == _TOPICS else ".py"
                yield SourceFile(path, kind, f"{version}/{relative.as_posix()}", path.stat().st_size, 0)
    if not found:
        raise DataError(f"sources: 'stdlib': this Python keeps no sources of its standard library in {root}.")
