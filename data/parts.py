"""Parts of a preparation: groups of files that are prepared by themselves, in any order, each once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gecko_lab.data.bad_input import InputAccount
from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.sources import SourceFile
from gecko_lab.data.split import SPLITS, DocumentSplit, HashRange
from gecko_lab.data.storage import TokenWriter, storage_dtype
from gecko_lab.data.tokenizers import Tokenizer

PART_FILE = "part.json"
LENGTHS_FILE = "lengths.bin"
HASHES_FILE = "hashes.bin"

# A part is long against the cost of starting one, and short against what a kill may throw away.
_MIN_PART_BYTES = 32 << 20
_MAX_PART_BYTES = 64 << 20
# Documents are tokenized in batches, so that tokenizers can use all cores.
_BATCH_BYTES = 4 << 20
_BATCH_DOCUMENTS = 4096

Report = Callable[[int, int], None]
"""Called with the bytes read and the tokens written so far."""


@dataclass(frozen=True)
class Part:
    """Files that are prepared together.

    Attributes:
        number: its place in the order of the dataset, from 0.
        files: in their order.
    """

    number: int
    files: tuple[SourceFile, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the files, as far as they are known."""
        return sum(file.size or 0 for file in self.files)

    @property
    def folder_name(self) -> str:
        """Where it is kept."""
        return f"part-{self.number:06}"


@dataclass(frozen=True)
class PartOptions:
    """What all parts of one preparation share.

    Attributes:
        folder: where finished parts stand.
        key: of the preparation.
        tokenizer: turns documents into ids.
        split: assigns documents to train and validation.
        text_field: the field of .jsonl and column of .parquet that holds the text.
        strict: stop at the first bad input.
    """

    folder: Path
    key: str
    tokenizer: Tokenizer
    split: DocumentSplit
    text_field: str
    strict: bool


@dataclass(frozen=True)
class FinishedPart:
    """What a finished part holds.

    Attributes:
        part: its files.
        split: with which it was prepared.
        hashes: of its documents.
        account: of its bad input.
        splits: for each split its `chunks` (LitData's entry and the checksum), `config`, and numbers of `documents`,
            `tokens`, `bytes`.
    """

    part: Part
    split: DocumentSplit
    hashes: HashRange
    account: InputAccount
    splits: dict[str, dict[str, Any]]


def group_files(files: Sequence[SourceFile]) -> list[Part]:
    """The files in their order, in parts of 32 to 64 MB.

    A larger file is a part of its own, and so is one of unknown size.
    """
    groups: list[list[SourceFile]] = [[]]
    num_bytes = 0
    for file in files:
        size = _MAX_PART_BYTES if file.size is None else file.size
        if groups[-1] and (num_bytes >= _MIN_PART_BYTES or num_bytes + size > _MAX_PART_BYTES):
            groups.append([])
            num_bytes = 0
        groups[-1].append(file)
        num_bytes += size
    return [Part(number, tuple(group)) for number, group in enumerate(groups)]


def prepare_part(part: Part, options: PartOptions, report: Report) -> None:
    """Prepares a part; its folder appears whole or not at all.

    Raises:
        DataError: a file was changed meanwhile, a host cannot be reached, or, where strict, bad input.
        OSError: it cannot be written.
    """
    aside = Path(tempfile.mkdtemp(prefix=f"{part.folder_name}-", suffix=".writing", dir=options.folder))
    try:
        content = _write_part(aside, part, options, report)
        write_synced(aside / PART_FILE, json.dumps(content, ensure_ascii=False).encode("utf-8", errors="replace"))
        try:
            os.rename(aside, options.folder / part.folder_name)
        except OSError:
            # A process whose parent was killed may have finished the same part meanwhile.
            if read_part(part, options) is None:
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_part(folder: Path, part: Part, options: PartOptions, report: Report) -> dict[str, Any]:
    account = InputAccount(strict=options.strict)
    reader = DocumentReader(part.files, options.text_field, account=account)
    writers = {name: _SplitWriter(folder / name, options.tokenizer, part.number) for name in SPLITS}
    split, hashes = options.split, HashRange()
    for documents in _batches(reader):
        pieces = []
        for document in documents:
            document_hash = split.hash(document)
            hashes |= HashRange(document_hash, document_hash)
            pieces += [(*piece, document_hash) for piece in split.parts(document, document_hash) if piece[1]]
        encoded = options.tokenizer.encode_batch([text for _, text, _ in pieces])
        for (name, text, document_hash), ids in zip(pieces, encoded, strict=True):
            writers[name].add(text, ids, document_hash)
        report(reader.bytes_read, sum(writer.stream.num_tokens for writer in writers.values()))
    report(part.num_bytes, sum(writer.stream.num_tokens for writer in writers.values()))
    return {
        "identity": _identity(part, options.key),
        "split": {"threshold": split.threshold, "cut": split.cut},
        "hashes": [hashes.lowest, hashes.highest],
        "account": account.as_dict(),
        "splits": {name: writer.close() for name, writer in writers.items()},
    }


def read_part(part: Part, options: PartOptions) -> FinishedPart | None:
    """The part as it was finished before, perhaps by an earlier run; None where it was not, or is not whole."""
    folder = options.folder / part.folder_name
    try:
        content = json.loads((folder / PART_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    if content["identity"] != _identity(part, options.key):
        return None
    for name, written in content["splits"].items():
        for chunk in written["chunks"]:
            path = chunk_path(options.folder, part, name, chunk["filename"])
            if path is None or path.stat().st_size != chunk["chunk_bytes"]:
                return None
    split = DocumentSplit(options.split.seed, options.split.validation_fraction, **content["split"])
    account = InputAccount.from_dict(content["account"])
    return FinishedPart(part, split, HashRange(*content["hashes"]), account, content["splits"])


def chunk_path(folder: Path, part: Part, split: str, filename: str) -> Path | None:
    """Where a chunk of a finished part lies: in the part's folder, or already in the split's; None for nowhere."""
    places = (folder / part.folder_name / split / filename, folder / split / filename)
    return next((path for path in places if path.is_file()), None)


def discard_part(part: Part, options: PartOptions) -> None:
    """Removes what there is of a part, so that it can be prepared afresh."""
    shutil.rmtree(options.folder / part.folder_name, ignore_errors=True)
    for split in SPLITS:
        for path in (options.folder / split).glob(f"chunk-{part.number}-*.bin"):
            path.unlink()


def write_synced(path: Path, content: bytes) -> None:
    """Writes a file and waits until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _identity(part: Part, key: str) -> str:
    files = [(file.name, file.shard, file.size, file.version) for file in part.files]
    return hashlib.blake2b(json.dumps([key, part.number, files]).encode(), digest_size=16).hexdigest()


class _SplitWriter:
    """One split of a part: its stream and its counts."""

    def __init__(self, folder: Path, tokenizer: Tokenizer, part_number: int) -> None:
        self.stream = TokenWriter(folder, storage_dtype(tokenizer.vocab_size), tokenizer.bos_id, part_number)
        self._num_bytes = 0
        self._hashes = bytearray()

    def add(self, text: bytes, ids: Any, document_hash: int) -> None:
        self.stream.add(ids)
        self._num_bytes += len(text)
        # With its length: both parts of a document that is cut have its hash.
        self._hashes += struct.pack("<QQ", document_hash, len(text))

    def close(self) -> dict[str, Any]:
        self.stream.close()
        lengths = self.stream.lengths
        write_synced(self.stream.folder / LENGTHS_FILE, lengths.astype("<i8").tobytes())
        write_synced(self.stream.folder / HASHES_FILE, bytes(self._hashes))
        return {
            "chunks": [{**chunk.entry, "checksum": chunk.checksum} for chunk in self.stream.chunks],
            "config": self.stream.config,
            "documents": len(lengths),
            "tokens": self.stream.num_tokens,
            "bytes": self._num_bytes,
        }


def _batches(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    num_bytes = 0
    for document in documents:
        batch.append(document)
        num_bytes += len(document)
        if num_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
