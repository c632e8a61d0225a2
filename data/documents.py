"""Documents out of files, one at a time, with an account of what could not be read."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from gecko_lab.data.bad_input import (
    BROKEN_COMPRESSION,
    BROKEN_FILE,
    BROKEN_JSON,
    EMPTY_FILE,
    LONE_SURROGATES,
    NOT_TEXT,
    UNDECODABLE,
    UNREADABLE_FILE,
    BadInput,
    InputAccount,
)
from gecko_lab.data.compression import BROKEN_STREAM_ERRORS, decompressed
from gecko_lab.data.errors import DataError
from gecko_lab.data.missing_text import MissingText
from gecko_lab.data.sources import DATASET_SHARD, TOPICS, SourceFile
from gecko_lab.data.tokenizers.base import as_bytes

_PARQUET_ROWS = 1024
_DECODED_BYTES = 1 << 17


class DocumentReader:
    """Iterates over the documents of the files, as bytes (text of .jsonl, .parquet and datasets as UTF-8).

    A file of text is one document, a line of .jsonl and a row of .parquet or of a dataset is one. Empty documents are
    left out.

    Arguments:
        files: what `resolve_sources` gave.
        text_field: the field of .jsonl and column of .parquet that holds the text.
        account: where bad input is counted; a strict one stops at the first.

    Attributes:
        bytes_read: how far reading has come, in bytes where the files lie, over all files.
        account: as given.

    Raises:
        DataError: in iterating: a file was changed meanwhile, a host cannot be reached, or, in a strict account,
            bad input.
    """

    def __init__(
        self, files: Sequence[SourceFile], text_field: str = "text", *, account: InputAccount | None = None
    ) -> None:
        self.files = list(files)
        self.text_field = text_field
        self.account = InputAccount() if account is None else account
        self.bytes_read = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all files, as far as they are known."""
        return sum(file.size or 0 for file in self.files)

    def __iter__(self) -> Iterator[bytes]:
        self.bytes_read = done = 0
        for file in self.files:
            try:
                raw = None if file.file_type in (DATASET_SHARD, TOPICS) else _open(file)
            except OSError as error:
                self._skip(file, UNREADABLE_FILE, f"the file cannot be read ({error.strerror or error}).")
                continue
            position: Callable[[], int] = int if raw is None else raw.tell
            try:
                for document in self._documents(file, raw):
                    self.bytes_read = done + min(position(), file.size or 0)
                    yield document
            finally:
                if raw is not None:
                    raw.close()
            file.check_unchanged()
            done += file.size or 0
            self.bytes_read = done

    def _documents(self, file: SourceFile, raw: IO[bytes] | None) -> Iterator[bytes]:
        if file.file_type == TOPICS:
            return _topics()
        if raw is None:
            return self._dataset_rows(file)
        if file.file_type == ".parquet":
            return self._parquet(file, raw)
        if file.file_type.startswith(".jsonl"):
            return self._json_lines(file, raw)
        return self._whole(file, raw)

    def _whole(self, file: SourceFile, raw: IO[bytes]) -> Iterator[bytes]:
        try:
            document = decompressed(raw, file.file_type).read()
        except BROKEN_STREAM_ERRORS as error:
            self._broken_stream(file, error, 0)
            return
        if not document:
            self._skip(file, EMPTY_FILE, "the file is empty.")
            return
        self._check_utf8(file, document, is_file=True)
        yield document

    def _json_lines(self, file: SourceFile, raw: IO[bytes]) -> Iterator[bytes]:
        missing = MissingText(file, self.text_field, self.account)
        number = num_records = 0
        try:
            for number, line in enumerate(decompressed(raw, file.file_type), start=1):
                if line.isspace():
                    continue
                num_records += 1
                record = self._json_record(file, number, line)
                if record is not None:
                    yield from self._text_of(file, record, missing, line=number)
        except BROKEN_STREAM_ERRORS as error:
            self._broken_stream(file, error, number)
            num_records += 1
        if num_records == 0:
            self._skip(file, EMPTY_FILE, "the file is empty.")
        missing.close()

    def _json_record(self, file: SourceFile, number: int, line: bytes) -> dict[str, Any] | None:
        try:
            record = json.loads(line)
        except UnicodeDecodeError as error:
            self._skip(file, UNDECODABLE, f"not {error.encoding.upper()} ({error.reason}).", line=number)
        except ValueError as error:
            self._skip(file, BROKEN_JSON, f"not JSON ({error}).", line=number)
        except RecursionError:
            self._skip(file, BROKEN_JSON, "not JSON that can be read (nested too deeply).", line=number)
        else:
            if isinstance(record, dict):
                return record
            problem = f"a JSON object is expected, not {type(record).__name__}."
            self._skip(file, BROKEN_JSON, problem, line=number)
        return None

    def _text_of(self, file: SourceFile, record: dict[str, Any], missing: MissingText, **place: int) -> Iterator[bytes]:
        """The document in a record, if there is one."""
        if self.text_field not in record:
            missing.add(list(record), **place)
            return
        missing.found()
        text = record[self.text_field]
        if not isinstance(text, str):
            problem = f"field {self.text_field!r} must be text, not {type(text).__name__}."
            self._skip(file, NOT_TEXT, problem, **place)
        elif not text:
            self.account.empty(file.label, **place)
        else:
            try:
                yield text.encode("utf-8")
            except UnicodeEncodeError:
                problem = "has halves of surrogate pairs, which are no characters; each becomes '?'."
                self.account.replace(BadInput(file.label, LONE_SURROGATES, problem, **place))
                yield as_bytes(text)

    def _parquet(self, file: SourceFile, raw: IO[bytes]) -> Iterator[bytes]:
        row = 0
        try:
            for batch in self._parquet_batches(file, raw):
                for text in batch:
                    row += 1
                    if text is None:
                        self._skip(file, NOT_TEXT, f"column {self.text_field!r} has no text (null).", row=row)
                    elif not text:
                        self.account.empty(file.label, row=row)
                    else:
                        self._check_utf8(file, text, row=row)
                        yield text
        except _BrokenTable as error:
            place = {"row": row + 1} if row else {}
            self._skip(file, BROKEN_FILE, f"not a whole .parquet file ({error}).", **place)

    def _parquet_batches(self, file: SourceFile, raw: IO[bytes]) -> Iterator[list[bytes | None]]:
        import pyarrow
        import pyarrow.parquet

        types = pyarrow.types
        try:
            table = pyarrow.parquet.ParquetFile(raw, page_checksum_verification=True)
            schema, num_rows = table.schema_arrow, table.metadata.num_rows
            if self.text_field not in schema.names:
                MissingText(file, self.text_field, self.account).add_all(schema.names, max(num_rows, 1))
                return
            kind = schema.field(schema.names.index(self.text_field)).type
            kind = kind.value_type if types.is_dictionary(kind) else kind
            if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
                problem = f"column {self.text_field!r} must be text, not {kind}."
                self.account.skip(BadInput(file.label, NOT_TEXT, problem), max(num_rows, 1))
                return
            if num_rows == 0:
                self._skip(file, EMPTY_FILE, "the table has no rows.")
            for group in range(table.num_row_groups):  # one by one, so that those before a broken one are kept
                for batch in table.iter_batches(_PARQUET_ROWS, row_groups=[group], columns=[self.text_field]):
                    column = batch.column(0)
                    if types.is_dictionary(column.type):
                        column = column.dictionary_decode()
                    # As bytes: Arrow does not look whether text is UTF-8, and Python would raise in the midst of it.
                    yield column.cast(pyarrow.large_binary()).to_pylist()
        except DataError:
            raise
        except Exception as error:  # whatever damaged bytes make the library raise
            raise _BrokenTable(" ".join(str(error).split())[:300] or type(error).__name__) from error

    def _dataset_rows(self, file: SourceFile) -> Iterator[bytes]:
        from gecko_lab.data.huggingface import is_local, read_rows

        missing = MissingText(file, self.text_field, self.account)
        row = 0
        rows = read_rows(file, self.text_field)
        while True:
            try:
                record = next(rows, None)
            except DataError:
                raise
            except Exception as error:  # of the dataset's own format, or of the network
                problem = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                if not is_local(file):
                    raise DataError(
                        f"{file.label}, row {row + 1} cannot be reached or read ({problem}); run again when it can: "
                        "what was prepared is kept."
                    ) from error
                self._skip(file, BROKEN_FILE, f"the shard cannot be read on ({problem}).", row=row + 1)
                break
            if record is None:
                break
            row += 1
            yield from self._text_of(file, record, missing, row=row)
        missing.close()

    def _check_utf8(self, file: SourceFile, document: bytes, *, is_file: bool = False, row: int | None = None) -> None:
        position = _first_undecodable(document)
        if position is not None:
            line = document.count(b"\n", 0, position) + 1 if is_file else None
            problem = f"byte {document[position]:#04x} at {position} is not UTF-8."
            self.account.replace(BadInput(file.label, UNDECODABLE, problem, line, row))

    def _broken_stream(self, file: SourceFile, error: BaseException, num_lines: int) -> None:
        if file.file_type.endswith((".gz", ".zst")):
            whole = f" after line {num_lines}; what was whole before is kept" if num_lines else ""
            line = num_lines + 1 if num_lines else None
            self._skip(file, BROKEN_COMPRESSION, f"the compressed stream is broken{whole} ({error}).", line=line)
        else:
            self._skip(file, UNREADABLE_FILE, f"the file cannot be read on ({error}).", line=num_lines + 1)

    def _skip(
        self, file: SourceFile, reason: str, message: str, *, line: int | None = None, row: int | None = None
    ) -> None:
        self.account.skip(BadInput(file.label, reason, message, line, row))


def _first_undecodable(document: bytes) -> int | None:
    """Where the document stops being UTF-8; None for nowhere."""
    if document.isascii():
        return None
    # In pieces: what is decoded of them stays in the processor's cache, which makes it three times as fast.
    start = 0
    while start < len(document):
        piece = document[start : start + _DECODED_BYTES]
        try:
            _, num_decoded = codecs.utf_8_decode(piece, "strict", start + len(piece) >= len(document))
        except UnicodeDecodeError as error:
            return start + error.start
        start += num_decoded
    return None


class _BrokenTable(Exception):
    """Arrow cannot read on."""


def _open(file: SourceFile) -> IO[bytes]:
    if file.is_remote:
        from gecko_lab.data.remote import open_url

        return open_url(file, seekable=file.file_type == ".parquet")
    return open(file.location, "rb")


def _topics() -> Iterator[bytes]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name].encode("utf-8")
