"""Where a prepared dataset lies: in a folder of this machine, or behind a URL whose chunks come as they are read."""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gecko_lab.data.errors import DataError

DEFAULT_CHUNK_CACHE = "~/.cache/gecko-lab/chunks"
DEFAULT_CACHE_BYTES = 64 << 30

_REMEDY = "remove its folder and prepare the data again"
_ATTEMPTS = 3
_PAUSE = 2.0  # seconds between them


class DataFolder(ABC):
    """Files by name, those of sub-folders as `folder/name`."""

    @classmethod
    def at(
        cls, place: str | Path, *, cache_folder: str = DEFAULT_CHUNK_CACHE, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> DataFolder:
        """The folder at a path or URL (anything with `://` that fsspec knows).

        Arguments:
            place: path or URL.
            cache_folder: keeps the chunks of a URL.
            cache_bytes: most that it may hold; the least recently opened are deleted above.
        """
        if "://" in str(place):
            return RemoteFolder(str(place), cache_folder=cache_folder, cache_bytes=cache_bytes)
        return LocalFolder(place)

    @abstractmethod
    def place(self, name: str = "") -> str:
        """Path or URL of a file, for messages."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is such a file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a small file.

        Raises:
            DataError: it cannot be read.
        """

    @abstractmethod
    def check(self, name: str, num_bytes: int) -> None:
        """Look whether a large file is there and of that size, where looking costs next to nothing.

        Raises:
            DataError: it is not.
        """

    @abstractmethod
    def fetch(self, name: str, num_bytes: int, checksum: str) -> Path:
        """The path of a large file on this machine whose content was found to be right once in this process.

        Arguments:
            name: of the file.
            num_bytes: its size.
            checksum: blake2b of its content, of 16 bytes, hexadecimal.

        Raises:
            DataError: it is missing, or holds something else.
        """

    def read_json(self, name: str) -> Any:
        """The content of a small JSON file.

        Raises:
            DataError: it cannot be read.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            raise DataError(f"{self.place(name)} is damaged ({error}); {_REMEDY}.") from error


class LocalFolder(DataFolder):
    """A folder of this machine."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()

    def place(self, name: str = "") -> str:
        return str(self.path / name)

    def exists(self, name: str) -> bool:
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise DataError(f"{self.place(name)} cannot be read ({error.strerror}); {_REMEDY}.") from error

    def check(self, name: str, num_bytes: int) -> None:
        _check_size(self.path / name, num_bytes)

    def fetch(self, name: str, num_bytes: int, checksum: str) -> Path:
        path = self.path / name
        _check_size(path, num_bytes)
        if not _has_checksum(path, checksum):
            raise DataError(f"{path} is damaged: its content does not have the checksum that was written; {_REMEDY}.")
        return path


class RemoteFolder(DataFolder):
    """A folder behind a URL. Chunks lie in the cache under their checksum, so two copies of one dataset share them."""

    def __init__(self, url: str, *, cache_folder: str, cache_bytes: int) -> None:
        self.url = url.rstrip("/")
        self.cache = Path(cache_folder).expanduser()
        self.cache_bytes = cache_bytes

    def place(self, name: str = "") -> str:
        return f"{self.url}/{name}" if name else self.url

    def exists(self, name: str) -> bool:
        system, path = self._file(name)
        try:
            return bool(system.exists(path))
        except Exception as error:  # each file system raises its own
            raise DataError(f"{self.place(name)} cannot be reached ({error}).") from error

    def read(self, name: str) -> bytes:
        system, path = self._file(name)
        content: bytes = self._attempt(name, lambda: system.cat_file(path))
        return content

    def check(self, name: str, num_bytes: int) -> None:
        """Nothing: it would be a request for each file, and what is fetched is checked."""

    def fetch(self, name: str, num_bytes: int, checksum: str) -> Path:
        path = self.cache / f"{checksum}.bin"
        try:
            if path.stat().st_size == num_bytes and _has_checksum(path, checksum):
                os.utime(path)  # the least recently used go first
                return path
        except OSError:  # not there, or deleted by another process meanwhile
            pass
        self._download(name, path, num_bytes, checksum)
        self._delete_oldest(path)
        return path

    def _download(self, name: str, path: Path, num_bytes: int, checksum: str) -> None:
        aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
        system, remote = self._file(name)
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            self._attempt(name, lambda: system.get_file(remote, str(aside)))
            _check_size(aside, num_bytes, self.place(name))
            if not _has_checksum(aside, checksum):
                raise DataError(f"{self.place(name)} is damaged: it does not have its checksum; {_REMEDY}.")
            os.replace(aside, path)
        except OSError as error:
            raise DataError(f"cache_folder: {path} cannot be written ({error.strerror}).") from error
        finally:
            aside.unlink(missing_ok=True)

    def _delete_oldest(self, keep: Path) -> None:
        """Delete what is too much; a deleted chunk that a process has mapped stays readable to it."""
        files = []
        for path in self.cache.glob("*.bin"):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            files.append((path == keep, found.st_mtime_ns, found.st_size, path))
        total = sum(size for _, _, size, _ in files)
        for newest, _, size, path in sorted(files):
            if total <= self.cache_bytes or newest:
                return
            path.unlink(missing_ok=True)
            total -= size

    def _file(self, name: str) -> tuple[Any, str]:
        """File system and path, asked for at each use: after a fork, fsspec gives the new process one of its own."""
        import fsspec

        try:
            system, path = fsspec.core.url_to_fs(self.place(name))
        except (ImportError, ValueError) as error:
            raise DataError(f"{self.url} cannot be read: {error}.") from error
        return system, str(path)

    def _attempt(self, name: str, action: Callable[[], Any], attempts: int = _ATTEMPTS) -> Any:
        try:
            return action()
        except FileNotFoundError as error:
            raise DataError(f"{self.place(name)} is missing; {_REMEDY}.") from error
        except Exception as error:  # each file system raises its own
            if attempts == 1:
                raise DataError(f"{self.place(name)} cannot be fetched ({error}); try again.") from error
        time.sleep(_PAUSE)
        return self._attempt(name, action, attempts - 1)


def _check_size(path: Path, num_bytes: int, place: str | None = None) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise DataError(f"{place or path} is missing; {_REMEDY}.") from error
    if found != num_bytes:
        raise DataError(f"{place or path} has {found} bytes, not {num_bytes} as was written; {_REMEDY}.")


_found_right: set[tuple[str, str, int]] = set()


def _has_checksum(path: Path, checksum: str) -> bool:
    """Whether the content has it; read once in a process, as long as the file does not change."""
    key = (str(path), checksum, path.stat().st_mtime_ns)
    if key not in _found_right:
        with path.open("rb") as file:
            digest = hashlib.blake2b(digest_size=16)
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != checksum:
            return False
        _found_right.add(key)
    return True
