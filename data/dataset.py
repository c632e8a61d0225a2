"""A prepared dataset: a folder with a manifest and one stream of tokens for each split."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gecko_lab.data.errors import DataError
from gecko_lab.data.folders import DEFAULT_CACHE_BYTES, DEFAULT_CHUNK_CACHE, DataFolder
from gecko_lab.data.stream import TokenStream

MANIFEST_FILE = "manifest.json"
FORMAT = "gecko-lab-tokens"
FORMAT_VERSION = 2


@dataclass(frozen=True)
class TokenDataset:
    """A prepared dataset that was found whole.

    Attributes:
        folder: holds `manifest.json` and a folder for each split; a path, or a URL.
        manifest: see `gecko_lab.data.preparation`.
    """

    folder: Path | str
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> TokenDataset:
        """Opens a prepared folder, or a URL of one.

        Raises:
            DataError: it is not one, was written in another format, or part of it is missing.
        """
        files = DataFolder.at(folder)
        path = files.place(MANIFEST_FILE)
        if "://" not in str(folder) and not Path(folder, MANIFEST_FILE).exists():  # it may hold anything: keep it
            raise DataError(
                f"{folder} is not a prepared dataset: {path} cannot be read, there is no such file; name another "
                "folder, or prepare the data again."
            )
        try:
            manifest = files.read_json(MANIFEST_FILE)
        except DataError as error:
            raise DataError(f"{folder} is not a prepared dataset: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise DataError(f"{folder} is not a prepared dataset: {path} is another program's.")
        if manifest.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"{folder} was prepared in format {manifest.get('format_version')}, this version reads "
                f"{FORMAT_VERSION}; prepare the data again."
            )
        dataset = cls(folder if "://" in str(folder) else Path(folder).expanduser(), manifest)
        try:
            expected = {split: int(counts["tokens"]) for split, counts in manifest["splits"].items()}
            np.dtype(manifest["token_dtype"]), dataset.key, dataset.bos_id, manifest["tokenizer"]["identity"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error!r}); remove the folder and prepare the data again.") from error
        for split, num_tokens in expected.items():
            found = len(dataset.stream(split))
            if found != num_tokens:
                raise DataError(
                    f"{files.place(split)} holds {found} tokens, {path} says {num_tokens}; prepare the data again."
                )
        return dataset

    @property
    def key(self) -> str:
        """Hash of everything that decided what the dataset holds."""
        return str(self.manifest["key"])

    @property
    def bos_id(self) -> int:
        """Id of the token that begins each document."""
        return int(self.manifest["tokenizer"]["bos_id"])

    def content(self, split: str) -> tuple[str, str]:
        """Hash of the split's documents, and the identity of the tokenizer: the same for a copy of the folder."""
        return str(self.manifest["splits"][split]["content_hash"]), str(self.manifest["tokenizer"]["identity"])

    def num_tokens(self, split: str) -> int:
        """Tokens of the split, BOS included."""
        return int(self.manifest["splits"][split]["tokens"])

    def stream(
        self, split: str, *, cache_folder: str = DEFAULT_CHUNK_CACHE, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> TokenStream:
        """The split's stream of tokens.

        Arguments:
            split: its name.
            cache_folder: keeps the chunks of a dataset that is read from a URL.
            cache_bytes: most that it may hold.
        """
        files = DataFolder.at(self.folder, cache_folder=cache_folder, cache_bytes=cache_bytes)
        return TokenStream(files, split, np.dtype(self.manifest["token_dtype"]))

    def documents(self, split: str) -> Iterator[npt.NDArray[np.int64]]:
        """The split's documents in the order of the stream, ids `[num_tokens]` without their BOS."""
        return self.stream(split).documents()


def is_prepared(folder: str | Path) -> bool:
    """Whether the folder, or what is at the URL, looks like a prepared dataset."""
    return DataFolder.at(folder).exists(MANIFEST_FILE)
