"""Sequences of tokens by index: what a loader asks for, whatever they are cut from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gecko_lab.data.stream import TokenStream

Batch = dict[str, Tensor]
Tokens = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


class Sequences(Dataset[Batch], ABC):
    """Sequences of `sequence_length` tokens and the one after.

    A batch holds `tokens` int64 `[B, L + 1]` (inputs are `[:, :-1]`, targets `[:, 1:]`), `samples` int64 `[B]` (the
    index of each) and, where some targets do not count, `mask` bool `[B, L]`: those that do.

    Attributes:
        sequence_length: L.
        samples_per_chunk: how many sequences begin in each chunk of the stream, in the order of their indices.
        masked: whether there is a mask.
    """

    sequence_length: int
    samples_per_chunk: npt.NDArray[np.int64]
    masked: bool = False

    def __len__(self) -> int:
        return int(self.samples_per_chunk.sum())

    @abstractmethod
    def fill(self, index: int, tokens: Tokens, mask: Mask | None) -> None:
        """Write one sequence.

        Arguments:
            index: of the sequence, in range.
            tokens: int64 `[L + 1]`, to be written.
            mask: bool `[L]`, all true, to be made false for targets that do not count; none where not `masked`.
        """

    def __getitem__(self, index: int) -> Batch:
        """One sequence, without the dimension of the batch."""
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The sequences of a batch; what a DataLoader calls.

        Raises:
            IndexError: there is no such sequence.
        """
        tokens = np.empty((len(indices), self.sequence_length + 1), dtype=np.int64)
        mask = np.ones((len(indices), self.sequence_length), dtype=np.bool_) if self.masked else None
        for row, index in enumerate(indices):
            if not 0 <= index < len(self):
                raise IndexError(f"sequence {index} of {len(self)}")
            self.fill(index, tokens[row], None if mask is None else mask[row])
        batch = {"tokens": torch.from_numpy(tokens), "samples": torch.tensor(indices, dtype=torch.int64)}
        return batch if mask is None else {**batch, "mask": torch.from_numpy(mask)}


class ContiguousSequences(Sequences):
    """The stream cut every L tokens: sequence i is `tokens[i·L : i·L + L + 1]`, so each token is a target once.

    Arguments:
        stream: of tokens.
        sequence_length: L.
    """

    def __init__(self, stream: TokenStream, sequence_length: int) -> None:
        self.stream = stream
        self.sequence_length = sequence_length
        self._count = max(len(stream) - 1, 0) // sequence_length
        begins = -(-np.asarray(stream.chunk_starts, dtype=np.int64) // sequence_length)  # the first one in each chunk
        self.samples_per_chunk = np.diff(np.minimum(begins, self._count))

    def __len__(self) -> int:
        return self._count

    def fill(self, index: int, tokens: Tokens, mask: Mask | None) -> None:
        self.stream.read_into(index * self.sequence_length, tokens)
