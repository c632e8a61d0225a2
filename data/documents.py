"""Documents out of files, one at a time."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import IO, Any

from gecko_lab.data.errors import DataError, suggestion
from gecko_lab.data.sources import SourceFile
from gecko_lab.data.tokenizers.base import as_bytes

_READ_BYTES = 1 << 20
_PARQUET_ROWS = 1024


class DocumentReader:
    """Iterates over the documents of the files, as bytes (text of .jsonl and .parquet as UTF-8).

    A file of text is one document, a line of .jsonl and a row of .parquet is one. Empty documents are left out.

    Arguments:
        files: what `resolve_sources` gave.
        text_field: the field of .jsonl and column of .parquet that holds the text.

    Attributes:
        bytes_read: how far reading has come, in bytes on disk, over all files.
        empty_documents: how many documents had no text.

    Raises:
        DataError: in iterating: a file that is broken, a field that is missing or is not text; with file and line.
    """

    def __init__(self, files: Sequence[SourceFile], text_field: str = "text") -> None:
        self.files = list(files)
        self.text_field = text_field
        self.bytes_read = 0
        self.empty_documents = 0

    @property
    def num_bytes(self) -> int:
        """Bytes on disk of all files."""
        return sum(file.size for file in self.files)

    def __iter__(self) -> Iterator[bytes]:
        self.bytes_read = self.empty_documents = done = 0
        for file in self.files:
            try:
                raw = file.path.open("rb")
            except OSError as error:
                raise DataError(f"{file.path} cannot be read: {error.strerror}.") from error
            with raw:
                for document in self._documents(file, raw):
                    self.bytes_read = done + min(raw.tell(), file.size)
                    if document:
                        yield document
                    else:
                        self.empty_documents += 1
            done += file.size
            self.bytes_read = done

    def _documents(self, file: SourceFile, raw: IO[bytes]) -> Iterator[bytes]:
        if file.file_type == "topics":
            yield from _topics()
        elif file.file_type == ".parquet":
            yield from self._parquet(file, raw)
        elif file.file_type.startswith(".jsonl"):
            yield from self._json_lines(file, raw)
        else:
            yield _whole(file, raw)

    def _json_lines(self, file: SourceFile, raw: IO[bytes]) -> Iterator[bytes]:
        for number, line in _numbered_lines(file, raw):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both ValueErrors
                raise DataError(f"{file.path}, line {number}: not JSON ({error}).") from error
            except RecursionError as error:
                raise DataError(f"{file.path}, line {number}: JSON nested too deeply.") from error
            if not isinstance(record, dict):
                raise DataError(f"{file.path}, line {number}: a JSON object is expected, not {type(record).__name__}.")
            if self.text_field not in record:
                raise DataError(self._missing_field(f"{file.path}, line {number}", list(record)))
            text = record[self.text_field]
            if not isinstance(text, str):
                raise DataError(
                    f"{file.path}, line {number}: field {self.text_field!r} must be text, not {type(text).__name__}."
                )
            yield as_bytes(text)

    def _parquet(self, file: SourceFile, raw: IO[bytes]) -> Iterator[bytes]:
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.ParquetFile(raw)
            schema = table.schema_arrow
            if self.text_field not in schema.names:
                raise DataError(self._missing_field(str(file.path), schema.names))
            kind = schema.field(self.text_field).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise DataError(f"{file.path}: column {self.text_field!r} must be text, not {kind}.")
            row = 0
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=[self.text_field]):
                for text in batch.column(0).to_pylist():
                    row += 1
                    if text is None:
                        raise DataError(f"{file.path}, row {row}: column {self.text_field!r} has no text.")
                    yield as_bytes(text)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{file.path} is not a whole .parquet file ({error}).") from error

    def _missing_field(self, where: str, fields: list[str]) -> str:
        return (
            f"{where}: no field {self.text_field!r}.{suggestion(self.text_field, fields)} "
            f"Its fields are {', '.join(map(repr, fields)) or '(none)'}; name the one with the text by text_field."
        )


def _numbered_lines(file: SourceFile, raw: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        if file.file_type == ".jsonl.gz":
            lines: Iterator[bytes] = gzip.GzipFile(fileobj=raw)
        elif file.file_type == ".jsonl.zst":
            lines = io.BufferedReader(_ZstandardReader(raw), _READ_BYTES)
        else:
            lines = raw
        for line in lines:
            number += 1
            yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file.path} is broken after line {number} ({error}).") from error


class _ZstandardReader(io.RawIOBase):
    """Decompresses a stream of zstandard frames; unlike zstandard's own reader, it notices that the end is missing."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._new_frame: Any = lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self._error = zstandard.ZstdError
        self._frame: Any = None
        self._pending = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._pending:
            compressed = self._raw.read(1 << 16)
            if not compressed:
                if self._frame is not None:
                    raise EOFError("the compressed stream ends before its end-of-stream marker")
                return 0
            self._pending = self._decompress(compressed)
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
            except self._error as error:
                raise OSError(str(error)) from error
            compressed = b""
            if self._frame.eof:
                compressed = self._frame.unused_data
                self._frame = None
        return b"".join(pieces)


def _whole(file: SourceFile, raw: IO[bytes]) -> bytes:
    try:
        return raw.read()
    except OSError as error:
        raise DataError(f"{file.path} cannot be read: {error.strerror}.") from error


def _topics() -> Iterator[bytes]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name].encode("utf-8")
