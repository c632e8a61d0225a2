"""Text to tokens, once: reads documents, splits them, and writes a dataset that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from gecko_lab.data.dataset import FORMAT, FORMAT_VERSION, MANIFEST_FILE, TokenDataset, is_prepared
from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.errors import DataError
from gecko_lab.data.sources import SourceFile, resolve_sources
from gecko_lab.data.split import TRAIN, VALIDATION, DocumentSplit
from gecko_lab.data.storage import TokenWriter, storage_dtype
from gecko_lab.data.tokenizers import Tokenizer

DEFAULT_CACHE_FOLDER = "~/.cache/gecko-lab/data"

# Documents are tokenized in batches, so that tokenizers can use all cores.
_BATCH_BYTES = 4 << 20
_BATCH_DOCUMENTS = 4096


class Preparation:
    """What is to be prepared and where it belongs.

    Arguments:
        sources: files, folders, globs, `stdlib`; or one folder that was prepared before, which is used as it is.
        tokenizer: turns documents into ids; each document is preceded by its BOS.
        validation_fraction: part of the documents that are for validation, in [0, 1).
        split_seed: of the assignment of documents to the validation.
        text_field: the field of .jsonl and column of .parquet that holds the text.
        folder: where the dataset is to stand; by default a folder of `cache_folder` named after sources and key.
        cache_folder: holds the datasets that have no folder of their own.

    Attributes:
        key: hash of all that decides what the dataset holds: the sources' paths, sizes and times of change, the
            tokenizer, the split, the format.

    Raises:
        DataError: a source is missing or of an unknown type, an option is out of range.
    """

    def __init__(
        self,
        sources: str | Sequence[str],
        tokenizer: Tokenizer,
        *,
        validation_fraction: float = 0.05,
        split_seed: int = 0,
        text_field: str = "text",
        folder: str | None = None,
        cache_folder: str = DEFAULT_CACHE_FOLDER,
    ) -> None:
        self.specifications = [sources] if isinstance(sources, str) else list(sources)
        self.tokenizer = tokenizer
        self.validation_fraction = validation_fraction
        self.split_seed = split_seed
        self.text_field = text_field
        DocumentSplit(split_seed, validation_fraction)  # refuses a fraction out of range before any work
        self.files: list[SourceFile] = []
        self._already = self._prepared_source()
        if self._already is not None:
            self.key = self._already.key
            self.folder = self._already.folder
            return
        self.files = resolve_sources(self.specifications)
        self.key = self._key()
        if folder is not None:
            self.folder = Path(folder).expanduser()
        else:
            label = re.sub(r"[^A-Za-z0-9]+", "-", Path(self.specifications[0]).name).strip("-")[:40]
            self.folder = Path(cache_folder).expanduser() / f"{label or 'data'}-{self.key}"

    def open(self) -> TokenDataset | None:
        """The dataset if it is there, else None.

        Raises:
            DataError: the folder holds something else, or a damaged dataset.
        """
        if self._already is not None:
            return self._already
        if is_prepared(self.folder):
            dataset = TokenDataset.open(self.folder)
            if dataset.key != self.key:
                raise DataError(
                    f"{self.folder} was prepared from {', '.join(dataset.manifest['sources'])} with tokenizer "
                    f"{dataset.manifest['tokenizer']['name']!r}, and what is asked now differs (sources or their "
                    "content, tokenizer, split or text field); name another folder, or remove this one."
                )
            return dataset
        if self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise DataError(f"{self.folder} exists and is not a prepared dataset; name another folder.")
        return None

    def run(self, progress: bool = True) -> TokenDataset:
        """Opens the dataset, preparing it first where it is not there. Several processes may do so at once.

        Arguments:
            progress: show it on stderr.

        Raises:
            DataError: a source is broken, holds no text, or the dataset cannot be written. Nothing is left then.
        """
        dataset = self.open()
        if dataset is not None:
            return dataset
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(self.folder):
                dataset = self.open()  # another process may have prepared it meanwhile
                return dataset if dataset is not None else self._prepare(progress)
        except OSError as error:
            raise DataError(f"{self.folder} cannot be written: {error}.") from error

    def _prepare(self, progress: bool) -> TokenDataset:
        partial = self.folder.parent / f".{self.folder.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # what a killed process left: we hold the lock
        try:
            split = DocumentSplit(self.split_seed, self.validation_fraction)
            manifest = self._write(partial, split, progress)
            better = split.repaired()
            if better is not None:
                shutil.rmtree(partial)
                manifest = self._write(partial, better, progress)
            with (partial / MANIFEST_FILE).open("w", encoding="utf-8") as file:
                json.dump(manifest, file, indent=2, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            TokenDataset.open(partial)  # checks what was written against the manifest
            os.rename(partial, self.folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return TokenDataset.open(self.folder)

    def _write(self, folder: Path, split: DocumentSplit, progress: bool) -> dict[str, Any]:
        """Writes the splits and returns the manifest."""
        started = time.monotonic()
        folder.mkdir()
        reader = DocumentReader(self.files, self.text_field)
        writers = {name: _SplitWriter(folder / name, self.tokenizer) for name in (TRAIN, VALIDATION)}
        with _progress_bar("preparing", reader.num_bytes, progress) as show:
            for documents in _batches(reader):
                parts = [part for document in documents for part in split.parts(document) if part[1]]
                for (name, text), ids in zip(parts, self.tokenizer.encode_batch([p[1] for p in parts]), strict=True):
                    writers[name].add(text, ids)
                show(reader.bytes_read, sum(writer.stream.num_tokens for writer in writers.values()))
        if writers[TRAIN].num_documents == 0:
            raise DataError(
                f"sources {', '.join(self.specifications)}: {len(self.files)} files hold no text to train on."
            )
        counts = {name: writer.close() for name, writer in writers.items()}
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "key": self.key,
            "sources": self.specifications,
            "files": len(self.files),
            "file_bytes": reader.num_bytes,
            "empty_documents": reader.empty_documents,
            "text_field": self.text_field,
            "tokenizer": {
                "name": self.tokenizer.name,
                "identity": self.tokenizer.identity,
                "vocab_size": self.tokenizer.vocab_size,
                "bos_id": self.tokenizer.bos_id,
            },
            "split": {"validation_fraction": self.validation_fraction, "seed": self.split_seed, "rule": split.rule},
            "token_dtype": storage_dtype(self.tokenizer.vocab_size).name,
            "splits": counts,
            "seconds": round(time.monotonic() - started, 2),
        }

    def _prepared_source(self) -> TokenDataset | None:
        prepared = [s for s in self.specifications if is_prepared(Path(s).expanduser())]
        if not prepared:
            return None
        if len(self.specifications) > 1:
            raise DataError(f"sources: {prepared[0]!r} is a prepared dataset, which must be the only source.")
        dataset = TokenDataset.open(Path(prepared[0]).expanduser())
        theirs = dataset.manifest["tokenizer"]
        if theirs["identity"] != self.tokenizer.identity:
            raise DataError(
                f"sources: {prepared[0]!r} has tokenizer {theirs['name']!r} ({theirs['vocab_size']} ids), "
                f"not {self.tokenizer.name!r} ({self.tokenizer.vocab_size} ids)."
            )
        return dataset

    def _key(self) -> str:
        description = {
            "format_version": FORMAT_VERSION,
            "files": [(file.name, file.file_type, file.size, file.modified) for file in self.files],
            "tokenizer": self.tokenizer.identity,
            "validation_fraction": self.validation_fraction,
            "split_seed": self.split_seed,
            "text_field": self.text_field,
        }
        return hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=8).hexdigest()


class _SplitWriter:
    """One split: its stream and its counts."""

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.stream = TokenWriter(folder, storage_dtype(tokenizer.vocab_size))
        self.num_documents = 0
        self._num_bytes = 0
        self._bos = np.array([tokenizer.bos_id], dtype=np.int32)
        self._content = hashlib.blake2b(digest_size=16)

    def add(self, text: bytes, ids: Any) -> None:
        self.stream.add(np.concatenate([self._bos, ids]))
        self.num_documents += 1
        self._num_bytes += len(text)
        self._content.update(len(text).to_bytes(8, "little"))
        self._content.update(text)

    def close(self) -> dict[str, Any]:
        self.stream.close()
        return {
            "documents": self.num_documents,
            "tokens": self.stream.num_tokens,
            "bytes": self._num_bytes,
            "content_hash": self._content.hexdigest(),
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


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process at a time; the operating system releases the lock of a process that was killed."""
    import filelock

    path = folder.parent / f".{folder.name}.lock"
    path.touch()  # fails at once where nothing can be created; filelock may try for ever
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"Waiting for another process that prepares {folder} ...", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _progress_bar(title: str, num_bytes: int, enabled: bool) -> Iterator[Any]:
    """Gives a function of (bytes read, tokens written) that shows them."""
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TextColumn("{task.fields[tokens]:.1f}M tokens, {task.fields[rate]:.2f}M/s"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), disable=not enabled) as bar:
        task = bar.add_task(title, total=num_bytes, tokens=0.0, rate=0.0)
        started = time.monotonic()

        def show(bytes_read: int, num_tokens: int) -> None:
            seconds = max(time.monotonic() - started, 1e-6)
            bar.update(task, completed=bytes_read, tokens=num_tokens / 1e6, rate=num_tokens / 1e6 / seconds)

        yield show
