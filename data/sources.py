"""From what the user names (files, folders, globs, URLs, datasets, `stdlib`) to the list of files that are read."""

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
HUGGING_FACE = "hf:"
FILE_TYPES = (".txt", ".md", ".py", ".jsonl", ".parquet", ".txt.gz", ".txt.zst", ".jsonl.gz", ".jsonl.zst")
TOPICS = "topics"
DATASET_SHARD = "shard"

# Tests and vendored packages repeat themselves, and what else is installed differs from machine to machine.
_STANDARD_LIBRARY_EXCLUDED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
# Topics are read as documents of English, not as the Python literal that holds them.
_TOPICS = Path("pydoc_data", "topics.py")


class SourceChanged(DataError):
    """A file is no longer the one whose size and version stand in the key."""


@dataclass(frozen=True)
class SourceFile:
    """A file to read, or a shard of a Hugging Face dataset.

    Attributes:
        location: path, URL, or `hf:NAME:CONFIG:SPLIT`.
        file_type: one of `FILE_TYPES`, `TOPICS` for the help texts of the standard library, or `DATASET_SHARD`.
        name: what stands for the location in the dataset's key: the same wherever the standard library is installed.
        size: bytes where it lies; None where nobody says.
        version: what tells one content from the next beside the size: the time of the last change or the server's tag;
            empty where nobody says, and for the standard library, which its own version and sizes tell.
        shard: number of the dataset's shard, from 0.
    """

    location: str
    file_type: str
    name: str
    size: int | None
    version: str
    shard: int = 0

    @property
    def is_remote(self) -> bool:
        """Whether it is read through fsspec."""
        return "://" in self.location and self.file_type != DATASET_SHARD

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.location} (shard {self.shard})" if self.file_type == DATASET_SHARD else self.location

    def check_unchanged(self) -> None:
        """After reading: the content is still the one whose size and version stand in the key.

        A file that has disappeared since it was read is no error.

        Raises:
            SourceChanged: it is another one now.
        """
        if self.file_type == DATASET_SHARD:
            return
        if self.is_remote:
            from gecko_lab.data.remote import size_and_version

            try:
                size, version = size_and_version(self.location)
            except DataError:  # it was read, so that the server need not answer once more
                return
        else:
            try:
                status = os.stat(self.location)
            except OSError:
                return
            size, version = status.st_size, str(status.st_mtime_ns)
        if size != self.size or (self.version and version != self.version):
            raise SourceChanged(
                f"{self.location} was changed while it was prepared ({self.size} bytes at first, now {size}); prepare "
                "again when nothing writes to it any more."
            )


def resolve_sources(sources: str | Sequence[str]) -> list[SourceFile]:
    """The files behind `sources`, each once, in the order named; folders and globs sorted by path.

    Arguments:
        sources: each the path of a file, a folder (read recursively: the files of `FILE_TYPES` that are not hidden), a
            glob (`**` for any folders), the URL of one of these that fsspec opens (`s3://`, `gs://`, `https://` ...),
            `hf:NAME`, `hf:NAME:CONFIG` or `hf:NAME:CONFIG:SPLIT` for a Hugging Face dataset, or `stdlib`.

    Raises:
        DataError: a path that is missing, a glob or folder without files, a file of an unknown type, a host that
            cannot be reached, a package that is not installed.
    """
    specifications = [sources] if isinstance(sources, str) else list(sources)
    if not specifications:
        raise DataError("sources: the list is empty; name files, folders, globs, URLs, or 'stdlib'.")
    files: dict[tuple[str, int], SourceFile] = {}
    for specification in specifications:
        for file in _resolve(specification):
            files.setdefault((file.name, file.shard), file)
    return list(files.values())


def _resolve(specification: str) -> Iterator[SourceFile]:
    if specification == STANDARD_LIBRARY:
        yield from _standard_library()
    elif specification.startswith(HUGGING_FACE):
        from gecko_lab.data.huggingface import resolve_dataset

        yield from resolve_dataset(specification)
    elif "://" in specification and not specification.startswith("file://"):
        from gecko_lab.data.remote import resolve_url

        yield from resolve_url(specification)
    else:
        yield from _local(specification)


def _local(specification: str) -> Iterator[SourceFile]:
    path = Path(specification.removeprefix("file://")).expanduser()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, ValueError) as error:  # a name that is too long, or with a zero byte
        raise DataError(f"sources: {specification!r} cannot be a path ({error}).") from error
    if is_folder:
        yield from _folder(path, specification)
        return
    if exists:
        yield _file(path, specification)
        return
    if glob.has_magic(specification):
        yield from _glob(specification)
        return
    try:
        beside = [str(path.parent / name) for name in os.listdir(path.parent)]
    except OSError:
        beside = []
    raise DataError(
        f"sources: {specification!r} does not exist (looked in {Path.cwd()}).{suggestion(str(path), beside)} "
        "Valid are files, folders and globs, their URLs, 'hf:NAME' for a Hugging Face dataset, and 'stdlib', the "
        "standard library of this Python."
    )


def _folder(folder: Path, specification: str) -> Iterator[SourceFile]:
    found = False
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and file_type(name) is not None and path.is_file():
                found = True
                yield _file(path, specification)
    if not found:
        raise DataError(
            f"sources: the folder {specification!r} holds no file of a known type ({', '.join(FILE_TYPES)})."
        )


def _glob(pattern: str) -> Iterator[SourceFile]:
    local_pattern = os.path.expanduser(pattern.removeprefix("file://"))
    paths = [Path(p) for p in sorted(glob.glob(local_pattern, recursive=True))]
    files = [path for path in paths if path.is_file()]
    if not files:
        raise DataError(f"sources: no file matches the glob {pattern!r} (looked in {Path.cwd()}).")
    for path in files:
        yield _file(path, pattern)


def _file(path: Path, specification: str) -> SourceFile:
    kind = known_file_type(str(path), specification)
    if not os.access(path, os.R_OK):
        raise DataError(f"sources: {path} cannot be read (permission denied).")
    status = path.stat()
    return SourceFile(str(path), kind, str(path.resolve()), status.st_size, str(status.st_mtime_ns))


def file_type(name: str) -> str | None:
    """Which of `FILE_TYPES` the file's name ends in, or None."""
    name = name.rsplit("/", 1)[-1].lower()
    return next((ending for ending in FILE_TYPES if name.endswith(ending) and name != ending), None)


def known_file_type(name: str, specification: str) -> str:
    """Which of `FILE_TYPES` the file's name ends in.

    Raises:
        DataError: none.
    """
    kind = file_type(name)
    if kind is None:
        named_by = "" if specification == name else f", which {specification!r} names,"
        raise DataError(f"sources: {name}{named_by} is of an unknown type. Valid are {', '.join(FILE_TYPES)}.")
    return kind


def _standard_library() -> Iterator[SourceFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = f"python-{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    found = False
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _STANDARD_LIBRARY_EXCLUDED)
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix == ".py" and path.is_file():
                size = path.stat().st_size
                if size == 0:  # an `__init__.py` without text is as it should be, no bad input
                    continue
                found = True
                relative = path.relative_to(root)
                kind = TOPICS if relative == _TOPICS else ".py"
                yield SourceFile(str(path), kind, f"{version}/{relative.as_posix()}", size, "")
    if not found:
        raise DataError(f"sources: 'stdlib': this Python keeps no sources of its standard library in {root}.")
