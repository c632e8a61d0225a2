"""A prepared dataset: a folder with a manifest and one stream of tokens for each split."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gecko_lab.data.errors import DataError
from gecko_lab.data.storage import TokenBlocks, read_chunks, read_index

MANIFEST_FILE = "manifest.json"
FORMAT = "gecko-lab-tokens"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class TokenDataset:
    """A prepared dataset that was found whole.

    Attributes:
        folder: holds `manifest.json` and a folder for each split.
        manifest: see `gecko_lab.data.preparation`.
    """

    folder: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> TokenDataset:
        """Opens a prepared folder.

        Raises:
            DataError: it is not one, was written in another format, or part of it is missing.
        """
        path = folder / MANIFEST_FILE
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{folder} is not a prepared dataset: {path} cannot be read ({error}).") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise DataError(f"{folder} is not a prepared dataset: {path} is another program's.")
        if manifest.get("format_version") != FORMAT_VERSION:
            raise DataError(
                f"{folder} was prepared in format {manifest.get('format_version')}, this version reads "
                f"{FORMAT_VERSION}; prepare the data again."
            )
        try:
            expected = {split: int(counts["tokens"]) for split, counts in manifest["splits"].items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is damaged ({error!r}); remove the folder and prepare the data again.") from error
        for split, num_tokens in expected.items():
            found = sum(chunk["dim"] for chunk in read_index(folder / split))
            if found != num_tokens:
                raise DataError(
                    f"{folder / split} holds {found} tokens, {path} says {num_tokens}; prepare the data again."
                )
        return cls(folder, manifest)

    @property
    def key(self) -> str:
        """Hash of everything that decided what the dataset holds."""
        return str(self.manifest["key"])

    def num_tokens(self, split: str) -> int:
        """Tokens of the split, BOS included."""
        return int(self.manifest["splits"][split]["tokens"])

    def blocks(self, split: str, block_size: int) -> TokenBlocks:
        """The split's stream in blocks of `block_size` tokens."""
        return TokenBlocks(self.folder / split, block_size)

    def documents(self, split: str) -> Iterator[npt.NDArray[Any]]:
        """The split's documents in the order of the stream, ids `[num_tokens]` without their BOS."""
        bos_id = int(self.manifest["tokenizer"]["bos_id"])
        rest: npt.NDArray[Any] | None = None  # a document may go on in the next chunk
        for chunk in read_chunks(self.folder / split):
            stream = chunk if rest is None else np.concatenate([rest, chunk])
            starts = np.flatnonzero(stream == bos_id)
            for start, end in itertools.pairwise(starts):
                yield stream[start + 1 : end]
            rest = stream[starts[-1] :]
        if rest is not None:
            yield rest[1:]


def is_prepared(folder: Path) -> bool:
    """Whether the folder looks like a prepared dataset."""
    return (folder / MANIFEST_FILE).is_file()
