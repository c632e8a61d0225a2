"""Compressed files as streams that notice when the end is missing."""

from __future__ import annotations

import gzip
import io
import zlib
from typing import IO, Any

# What reading a broken stream raises
BROKEN_STREAM_ERRORS = (OSError, EOFError, zlib.error)

_COMPRESSED_BYTES = 1 << 16
_READ_BYTES = 1 << 20


def decompressed(raw: IO[bytes], file_type: str) -> IO[bytes]:
    """The content of a file by the ending of its name: `.gz`, `.zst`, or as it is.

    Reading raises one of `BROKEN_STREAM_ERRORS` where the stream is broken or ends too early, after all that was whole.
    """
    if file_type.endswith(".gz"):
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value] # it reads like one
    if file_type.endswith(".zst"):
        return io.BufferedReader(_ZstandardReader(raw), _READ_BYTES)
    return raw


class _ZstandardReader(io.RawIOBase):
    """Decompresses a stream of zstandard frames; unlike zstandard's own reader, it notices that the end is missing."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._new_frame: Any = lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._pending = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            compressed = self._raw.read(_COMPRESSED_BYTES)
            if not compressed:
                if self._frame is not None:
                    raise EOFError("the compressed stream ends before its end-of-stream marker")
                return 0
            self._pending = memoryview(self._decompress(compressed))
        count = min(len(buffer), len(self._pending))
        buffer[:count] = self._pending[:count]
        self._pending = self._pending[count:]
        return count

    def _decompress(self, compressed: bytes) -> bytes:
        pieces = []
        while compressed:
            self._frame = self._frame or self._new_frame()
            try:
                pieces.append(self._frame.decompress(compressed))
            except (self._error, MemoryError) as error:  # a damaged header may ask for any amount of memory
                raise OSError(str(error)) from error
            compressed = b""
            if self._frame.eof:
                compressed = self._frame.unused_data
                self._frame = None
        return b"".join(pieces)
