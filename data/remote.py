"""Files behind URLs, through fsspec: `s3://`, `gs://`, `https://`, `memory://` and whatever else it opens."""

from __future__ import annotations

import glob
import io
import tempfile
from collections.abc import Callable, Iterator
from typing import IO, Any, TypeVar

from gecko_lab.data.errors import DataError
from gecko_lab.data.sources import FILE_TYPES, SourceFile, file_type, known_file_type

# What file systems call the mark of one content
_VERSION_FIELDS = (
    "ETag",
    "etag",
    "md5Hash",
    "Content-MD5",
    "LastModified",
    "last_modified",
    "Last-Modified",
    "updated",
    "mtime",
    "modified",
    "created",
)
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_NOT_FOUND = (404, 410)
_CONNECT_SECONDS = 30
_READ_SECONDS = 120
_READ_BYTES = 1 << 20

Result = TypeVar("Result")


def resolve_url(url: str) -> Iterator[SourceFile]:
    """The files behind the URL of a file, a folder or a glob, sorted by path.

    Raises:
        DataError: nothing is there, the host cannot be reached, a package is missing, a file is of an unknown type.
    """
    file_system, path = _file_system(url)
    if _is_glob(url, path):
        found = _ask(url, lambda: file_system.glob(path, detail=True))
        paths = sorted(p for p, facts in found.items() if facts.get("type") != "directory")
        if not paths:
            raise DataError(f"sources: no file matches the glob {url!r}.")
    elif file_type(_bare(path)) is not None:
        paths = [path]
    else:
        if not _ask(url, lambda: file_system.isdir(path)):
            _ask(url, lambda: file_system.info(path))  # says so where it does not exist or cannot be reached
            known_file_type(_bare(url), _bare(url))
        names = (p for p in _ask(url, lambda: file_system.find(path)) if not p.rsplit("/", 1)[-1].startswith("."))
        paths = sorted(p for p in names if file_type(_bare(p)) is not None)
        if not paths:
            raise DataError(f"sources: the folder {url!r} holds no file of a known type ({', '.join(FILE_TYPES)}).")
    for file_path in paths:
        kind = known_file_type(_bare(file_path), url)
        location = url if paths == [path] else _location(url, file_path)
        size, version = size_and_version(location)
        yield SourceFile(location, kind, location, size, version)


def size_and_version(url: str) -> tuple[int | None, str]:
    """Bytes of the file, None where nobody says, and what its server marks its content with (`""` for nothing).

    Raises:
        DataError: it is not there or cannot be reached.
    """
    file_system, path = _file_system(url)
    facts = _ask(url, lambda: file_system.info(path))
    version = next((str(facts[name]) for name in _VERSION_FIELDS if facts.get(name)), "")
    return facts.get("size"), version


def open_url(file: SourceFile, *, seekable: bool = False) -> IO[bytes]:
    """Opens a remote file for reading from its beginning.

    Arguments:
        file: one of `resolve_url`.
        seekable: read parts in any order; where the server gives files in one piece only, it is copied to a temporary
            file first.

    Raises:
        OSError: it has disappeared or must not be read.
        DataError: it cannot be reached; while reading too.
    """
    file_system, path = _file_system(file.location)
    is_http = file.location.startswith(("http://", "https://"))
    if seekable and not (is_http and not _gives_ranges(file_system, path)):
        stream = _RemoteFile(_open(file, lambda: file_system.open(path, "rb")), file)
        return io.BufferedReader(stream, _READ_BYTES)
    options = {"block_size": 0} if is_http else {}  # one request for all of it
    whole = _RemoteFile(_open(file, lambda: file_system.open(path, "rb", **options)), file)
    if not seekable:
        return io.BufferedReader(whole, _READ_BYTES)
    copy = tempfile.TemporaryFile()  # noqa: SIM115 — the caller closes it
    with whole:
        while piece := whole.read(_READ_BYTES):
            copy.write(piece)
    copy.seek(0)
    return copy


class _RemoteFile(io.RawIOBase):
    """What fsspec opened; a failure in reading is a `DataError`, and so is an end that comes too early."""

    def __init__(self, inner: Any, file: SourceFile) -> None:
        self._inner = inner
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def readinto(self, buffer: Any) -> int:
        content = _ask(self._file.location, lambda: self._inner.read(len(buffer)))
        buffer[: len(content)] = content
        self._position += len(content)
        if not content and len(buffer) and self._file.size is not None and self._position < self._file.size:
            raise DataError(
                f"{self._file.location} ended after {self._position} of {self._file.size} bytes; run again: what was "
                "prepared of other files is kept."
            )
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = int(_ask(self._file.location, lambda: self._inner.seek(offset, whence)))
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.split("://")[0].rsplit("::", 1)[-1]
    options: dict[str, Any] = {}
    try:
        if protocol in ("http", "https") and "::" not in url:
            import aiohttp

            # Without them a stream is cut after five minutes, and an address that drops packets is waited for as long.
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS)
            options["client_kwargs"] = {"timeout": timeout}
        file_system, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        remedy = f"install {package} (pip install {package})" if package else str(error)
        raise DataError(f"sources: {url!r} needs a package that is not installed: {remedy}.") from error
    except Exception as error:  # each file system has errors of its own
        raise DataError(f"sources: {url!r} cannot be opened ({_reason(error)}).") from error
    return file_system, path


def _ask(url: str, question: Callable[[], Result]) -> Result:
    try:
        return question()
    except Exception as error:  # each file system has errors of its own
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
        # Behind `http`, a host that does not answer makes a file that is not found as well.
        if isinstance(cause, FileNotFoundError) or getattr(cause, "status", None) in _NOT_FOUND:
            raise DataError(f"sources: {url!r} does not exist.") from error
        raise DataError(
            f"{url} cannot be reached or read ({_reason(cause)}); run again when it can: what was prepared is kept."
        ) from error


def _open(file: SourceFile, action: Callable[[], Result]) -> Result:
    try:
        return action()
    except (FileNotFoundError, PermissionError):
        raise
    except Exception:
        return _ask(file.location, action)


def _gives_ranges(file_system: Any, path: str) -> bool:
    try:
        with file_system.open(path, "rb", block_size=1 << 16, cache_type="none") as file:
            if not file.seekable():
                return False
            file.seek(1)
            file.read(1)
    except Exception:  # the answer differs from one server to the next
        return False
    return True


def _is_glob(url: str, path: str) -> bool:
    if url.startswith(("http://", "https://")):  # a question mark begins a query
        return "*" in path or "[" in path
    return glob.has_magic(path)


def _bare(path: str) -> str:
    """The path without the query of a URL."""
    return path.split("?", 1)[0].split("#", 1)[0] if path.startswith(("http://", "https://")) else path


def _location(url: str, path: str) -> str:
    """URL of a path that a glob or folder named."""
    links = url.split("::")
    place = next(i for i, link in enumerate(links) if "://" in link)
    protocol = links[place].split("://")[0]
    links[place] = path if "://" in path else f"{protocol}://{path.lstrip('/')}"
    return "::".join(links)


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".strip().splitlines()[0].removesuffix(":")
