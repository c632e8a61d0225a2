"""Text to tokens, once: prepares the parts, and puts them together to a dataset that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gecko_lab.data.assembly import assemble, sync_folder
from gecko_lab.data.bad_input import InputAccount
from gecko_lab.data.dataset import FORMAT, FORMAT_VERSION, MANIFEST_FILE, TokenDataset, is_prepared
from gecko_lab.data.errors import DataError
from gecko_lab.data.parts import FinishedPart, Part, PartOptions, discard_part, group_files, read_part, write_synced
from gecko_lab.data.pool import default_num_workers, prepare_parts
from gecko_lab.data.progress import preparing_progress
from gecko_lab.data.sources import (
    HUGGING_FACE,
    STANDARD_LIBRARY,
    SourceChanged,
    SourceFile,
    file_type,
    resolve_sources,
)
from gecko_lab.data.split import TRAIN, DocumentSplit, HashRange
from gecko_lab.data.storage import storage_dtype
from gecko_lab.data.tokenizers import Tokenizer

DEFAULT_CACHE_FOLDER = "~/.cache/gecko-lab/data"

_KEY_FILE = "key"


class Preparation:
    """What is to be prepared and where it belongs.

    Arguments:
        sources: files, folders, globs, their URLs, `hf:NAME` for a Hugging Face dataset, `stdlib`; or one folder that
            was prepared before, which is used as it is.
        tokenizer: turns documents into ids; each document is preceded by its BOS.
        validation_fraction: part of the documents that are for validation, in [0, 1).
        split_seed: of the assignment of documents to the validation.
        text_field: the field of .jsonl and column of .parquet that holds the text.
        folder: where the dataset is to stand; by default a folder of `cache_folder` named after sources and key.
        cache_folder: holds the datasets that have no folder of their own.
        strict: stop at the first bad input instead of counting it.
        num_workers: processes that prepare; by default up to one for each core, and this process alone where there is
            so little that starting others would take longer. The result is the same for any number.

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
        strict: bool = False,
        num_workers: int | None = None,
    ) -> None:
        self.specifications = [sources] if isinstance(sources, str) else list(sources)
        self.tokenizer = tokenizer
        self.split = DocumentSplit(split_seed, validation_fraction)
        self.text_field = text_field
        self.strict = strict
        if num_workers is not None and num_workers < 1:
            raise DataError(f"num_workers must be at least 1, not {num_workers}: 1 prepares in this process.")
        self.num_workers = num_workers
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
        """The dataset if it is there, else None. Nothing is written.

        Raises:
            DataError: the folder holds something else, or a damaged dataset.
        """
        if self._already is not None:
            return self._already
        folder = Path(self.folder)
        if is_prepared(folder):
            dataset = TokenDataset.open(folder)
            if dataset.key != self.key:
                raise DataError(
                    f"{folder} was prepared from {', '.join(dataset.manifest['sources'])} with tokenizer "
                    f"{dataset.manifest['tokenizer']['name']!r}, and what is asked now differs (sources or their "
                    "content, tokenizer, split or text field); name another folder, or remove this one."
                )
            return dataset
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise DataError(f"{folder} exists and is not a prepared dataset; name another folder.")
        return None

    def run(self, progress: bool = True) -> TokenDataset:
        """Opens the dataset, preparing it first where it is not there. Several processes may do so at once.

        Bad input is counted in the manifest, and told on stderr after preparing. When preparing fails or is killed,
        nothing stands under the dataset's name; the parts that were finished stay beside it for the next run.

        Arguments:
            progress: show it on stderr.

        Raises:
            DataError: bad input where strict; no text at all; a file was changed meanwhile; a process has died; the
                dataset cannot be written.
        """
        try:
            dataset = self.open()
            if dataset is not None:
                return dataset
            folder = Path(self.folder)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _lock(folder):
                dataset = self.open()  # another process may have prepared it meanwhile
                return dataset if dataset is not None else self._prepare(folder, progress)
        except OSError as error:
            raise DataError(
                f"{self.folder} cannot be written: {error}. Nothing stands under this name; what was finished is kept "
                "beside it for the next run."
            ) from error

    def _prepare(self, folder: Path, progress: bool) -> TokenDataset:
        partial = folder.parent / f".{folder.name}.partial"
        options = PartOptions(partial, self.key, self.tokenizer, self.split, self.text_field, self.strict)
        parts = group_files(self.files)
        _claim(partial, self.key)
        try:
            if not is_prepared(partial):  # else it was killed in its last moment
                self._write(parts, options, progress)
            account = InputAccount.from_dict(TokenDataset.open(partial).manifest)
            for part in parts:
                shutil.rmtree(partial / part.folder_name, ignore_errors=True)
            (partial / _KEY_FILE).unlink()
            os.rename(partial, folder)
            sync_folder(folder.parent)
        except SourceChanged:  # what was prepared has a key that will not be asked for again
            shutil.rmtree(partial, ignore_errors=True)
            raise
        finally:
            _clear(partial)
        if account.report():
            print(account.report(), file=sys.stderr, flush=True)
        return TokenDataset.open(folder)

    def _write(self, parts: Sequence[Part], options: PartOptions, progress: bool) -> None:
        """Makes the partial folder a whole dataset."""
        started = time.monotonic()
        with preparing_progress(sum(part.num_bytes for part in parts), progress) as show:
            finished = self._finish(parts, options, show)
            hashes = HashRange()
            for done in finished:
                hashes |= done.hashes
            # A side that stayed empty is known only now; where no document changes sides, nothing is done again.
            options = PartOptions(**{**vars(options), "split": self.split.repaired(hashes)})
            finished = self._finish(parts, options, show, hashes)
        for file in self.files:
            if not file.is_remote:
                file.check_unchanged()
        account = InputAccount()
        for done in finished:
            account.extend(done.account)
        if not any(part.splits[TRAIN]["documents"] for part in finished):
            for part in parts:
                discard_part(part, options)
            raise DataError(self._without_text(account))
        manifest = self._manifest(assemble(finished, options.folder), options.split, account)
        manifest["seconds"] = round(time.monotonic() - started, 2)
        content = json.dumps(manifest, indent=2, ensure_ascii=False).encode("utf-8", errors="replace")
        aside = options.folder / f"{MANIFEST_FILE}.writing"
        write_synced(aside, content)
        os.rename(aside, options.folder / MANIFEST_FILE)
        sync_folder(options.folder)

    def _finish(
        self, parts: Sequence[Part], options: PartOptions, show: Any, hashes: HashRange | None = None
    ) -> list[FinishedPart]:
        """All parts, preparing those that are not finished; with `hashes`, also those that the split makes wrong."""
        found = [read_part(part, options) for part in parts]
        if hashes is not None:
            found = [p if p is not None and p.split.same_sides(options.split, p.hashes) else None for p in found]
        missing = [part for part, finished in zip(parts, found, strict=True) if finished is None]
        for part in missing:
            discard_part(part, options)
        kept = [finished for finished in found if finished is not None]
        kept_bytes = sum(finished.part.num_bytes for finished in kept)
        if hashes is None and kept:
            print(f"preparing: {len(kept)} of {len(parts)} parts were finished before.", file=sys.stderr, flush=True)
        if missing:
            num_workers = self.num_workers or default_num_workers(missing)
            prepare_parts(missing, options, num_workers, lambda read, tokens: show(kept_bytes + read, tokens))
        finished_parts = []
        for part, finished in zip(parts, found, strict=True):
            finished = finished or read_part(part, options)
            if finished is None:
                raise DataError(f"{options.folder / part.folder_name} has disappeared; run again.")
            finished_parts.append(finished)
        return finished_parts

    def _without_text(self, account: InputAccount) -> str:
        found = f"sources {', '.join(self.specifications)}: {len(self.files)} files hold no text to train on."
        return f"{found}\n{account.report()}".strip()

    def _manifest(self, splits: dict[str, Any], split: DocumentSplit, account: InputAccount) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "key": self.key,
            "sources": self.specifications,
            "files": len(self.files),
            "file_bytes": sum(file.size or 0 for file in self.files),
            "text_field": self.text_field,
            "tokenizer": {
                "name": self.tokenizer.name,
                "identity": self.tokenizer.identity,
                "vocab_size": self.tokenizer.vocab_size,
                "bos_id": self.tokenizer.bos_id,
            },
            "split": {"validation_fraction": split.validation_fraction, "seed": split.seed, "rule": split.rule},
            "token_dtype": storage_dtype(self.tokenizer.vocab_size).name,
            "splits": splits,
            **account.as_dict(),
        }

    def _prepared_source(self) -> TokenDataset | None:
        prepared = [name for name in self.specifications if _may_be_prepared(name) and is_prepared(name)]
        if not prepared:
            return None
        if len(self.specifications) > 1:
            raise DataError(f"sources: {prepared[0]!r} is a prepared dataset, which must be the only source.")
        dataset = TokenDataset.open(prepared[0])
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
            "files": [(file.name, file.file_type, file.size, file.version, file.shard) for file in self.files],
            "tokenizer": self.tokenizer.identity,
            "validation_fraction": self.split.validation_fraction,
            "split_seed": self.split.seed,
            "text_field": self.text_field,
        }
        return hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=8).hexdigest()


def _may_be_prepared(specification: str) -> bool:
    """Whether it is worth a look, which costs a request where it is a URL."""
    is_name = specification == STANDARD_LIBRARY or specification.startswith(HUGGING_FACE)
    return not (is_name or "*" in specification or file_type(specification) is not None or "\0" in specification)


def _claim(partial: Path, key: str) -> None:
    """Makes the folder for the parts, or takes over what an earlier run of the same left; the lock is ours."""
    path = partial / _KEY_FILE
    if partial.exists() and _key_of(partial) != key:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    for unfinished in partial.glob("*.writing"):
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        else:
            unfinished.unlink()
    write_synced(path, key.encode())


def _key_of(partial: Path) -> str | None:
    """The key that the folder's parts belong to; at the very end its manifest alone has it."""
    try:
        path = partial / _KEY_FILE
        return path.read_text() if path.is_file() else TokenDataset.open(partial).key
    except (OSError, ValueError):  # unreadable, or a DataError: no dataset
        return None


def _clear(partial: Path) -> None:
    """After a failure: removes what no later run can use."""
    if not partial.exists():
        return
    for unfinished in partial.glob("*.writing"):
        shutil.rmtree(unfinished, ignore_errors=True)
    if not any(partial.glob("part-*")):
        shutil.rmtree(partial, ignore_errors=True)


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
