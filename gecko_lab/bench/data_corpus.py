"""Random text for the loaders to read, prepared as any other text, and what its stream must be."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.preparation import Preparation
from gecko_lab.data.split import TRAIN
from gecko_lab.data.tokenizers import build_tokenizer

_LONGEST_DOCUMENT = 8192
TOKENIZER = "bytes"


@dataclass(frozen=True)
class Corpus:
    """A prepared dataset, and what it was prepared from.

    Attributes:
        dataset: as our writer wrote it, LitData's format in the folder of the split.
        stream: all its tokens as they were drawn, not as they are read, uint16 `[num_tokens]`.
    """

    dataset: TokenDataset
    stream: npt.NDArray[np.uint16]

    @property
    def train_folder(self) -> Path:
        """Holds the chunk files and LitData's index."""
        return Path(self.dataset.folder) / TRAIN

    @cached_property
    def chunk_starts(self) -> list[int]:
        """Where in the stream each chunk file begins, and at last the stream's length."""
        return self.dataset.stream(TRAIN).chunk_starts

    def describe(self) -> dict[str, Any]:
        """For JSON."""
        files = list(self.train_folder.glob("chunk-*.bin"))
        return {
            "tokens": len(self.stream),
            "token_dtype": self.dataset.manifest["token_dtype"],
            "chunks": len(files),
            "bytes": sum(file.stat().st_size for file in files),
        }


def make_corpus(folder: Path, num_tokens: int) -> Corpus:
    """Draw documents of random letters and prepare them.

    Args:
        folder: exists; text and dataset are written there.
        num_tokens: together, with the BOS of each document; at least 2.
    """
    tokenizer = build_tokenizer(TOKENIZER)
    draw = np.random.default_rng(0)
    stream = draw.integers(ord("a"), ord("z"), num_tokens, dtype=np.uint8, endpoint=True).astype(np.uint16)
    starts = [0]
    while num_tokens - starts[-1] > 2 * _LONGEST_DOCUMENT:
        starts.append(starts[-1] + int(draw.integers(2, _LONGEST_DOCUMENT)))
    stream[starts] = tokenizer.bos_id
    path = folder / "text.jsonl"
    with path.open("wb") as file:
        for start, stop in zip(starts, [*starts[1:], num_tokens], strict=True):
            file.write(b'{"text": "%b"}\n' % stream[start + 1 : stop].astype(np.uint8).tobytes())
    preparation = Preparation(
        str(path), tokenizer, validation_fraction=0.0, folder=str(folder / "prepared"), num_workers=1
    )
    return Corpus(preparation.run(progress=False), stream)
