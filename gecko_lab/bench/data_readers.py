"""The loaders that are compared: what a training would make of each, batch by batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
from litdata import StreamingDataLoader, StreamingDataset, TokensLoader
from torch import Tensor

from gecko_lab.bench.data_corpus import TOKENIZER, Corpus
from gecko_lab.data.text import TextDataModule


class Reader(ABC):
    """Gives shuffled batches of a corpus.

    Arguments:
        corpus: to be read.
        sequence_length: L, targets of a sequence.
        batch_size: B.

    Attributes:
        name: for tables.
    """

    name: str

    def __init__(self, corpus: Corpus, sequence_length: int, batch_size: int) -> None:
        self.corpus = corpus
        self.sequence_length = sequence_length
        self.batch_size = batch_size

    @property
    @abstractmethod
    def starts(self) -> npt.NDArray[np.int64]:
        """Where in the stream the sequences of one pass begin, int64 `[num_sequences]`, in any order."""

    @abstractmethod
    def batches(self, num_workers: int) -> Iterator[Tensor]:
        """One pass: opens the dataset anew and gives int64 `[B, L + 1]`.

        The last batch may have fewer rows, or go on into the next pass.

        Args:
            num_workers: processes that load; 0 = this one.
        """


class OurReader(Reader):
    """The loader of `TextDataModule`."""

    name = "gecko-lab"

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        return np.arange(0, len(self.corpus.stream) - self.sequence_length, self.sequence_length)

    def datamodule(self, num_workers: int) -> TextDataModule:
        """The corpus as training data."""
        return TextDataModule(
            sources=str(self.corpus.dataset.folder),
            tokenizer=TOKENIZER,
            validation_fraction=0.0,
            sequence_length=self.sequence_length,
            batch_size=self.batch_size,
            num_workers=num_workers,
            progress=False,
        )

    def batches(self, num_workers: int) -> Iterator[Tensor]:
        datamodule = self.datamodule(num_workers)
        datamodule.setup()
        num_batches = -(-len(self.starts) // self.batch_size)
        for batch in islice(datamodule.train_dataloader(), num_batches):  # the order of the samples has no end
            yield batch["tokens"]


class LitDataReader(Reader):
    """LitData's `StreamingDataLoader` and `TokensLoader`; its blocks do not cross the end of a chunk file."""

    name = "LitData"

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        width = self.sequence_length + 1
        chunks = pairwise(self.corpus.chunk_starts)
        return np.concatenate([np.arange(begin, end - width + 1, width) for begin, end in chunks])

    def batches(self, num_workers: int) -> Iterator[Tensor]:
        item_loader = TokensLoader(block_size=self.sequence_length + 1)
        item_loader.close = _stay_mapped
        with without_version_check():
            dataset: Any = StreamingDataset(
                str(self.corpus.train_folder),
                item_loader=item_loader,
                shuffle=True,
                drop_last=False,
            )
        for batch in StreamingDataLoader(dataset, batch_size=self.batch_size, num_workers=num_workers):
            yield batch.long()  # it gives the type on disk, and embeddings take int64


def _stay_mapped(chunk_index: int) -> None:
    """Instead of LitData's unmapping of a file.

    Where it read a single block of a file, it unmaps that as soon as the next file is begun, and the process crashes if
    the block is yet to be collated. Where it read more, the file stays mapped anyway.
    """


@contextmanager
def without_version_check() -> Iterator[None]:
    """LitData asks a package index for newer versions whenever a dataset is opened: a measurement needs no network."""
    with patch("litdata.streaming.dataset._check_version_and_prompt_upgrade", lambda version: None):
        yield
