"""Streams that go on from batch to batch, for a model that carries its state (truncated back-propagation in time)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from gecko_lab.data.order import Indices, SampleOrder
from gecko_lab.data.sequences import Batch, Mask, Sequences, Tokens


class CarriedOrder(SampleOrder):
    """Row r of each global batch continues row r of the one before.

    A pass over n samples takes n // lanes steps. At step t, lane j stands at sample (begin + j · (n // lanes) + t)
    modulo n, where `begin` is drawn for each pass. The fewer than `lanes` samples left over are others in each pass.

    Arguments:
        num_samples: n.
        lanes: rows of a global batch, at most n.
        seed: of the passes' beginnings.
    """

    def __init__(self, num_samples: int, lanes: int, seed: int) -> None:
        self.lanes = lanes
        self._num_samples = num_samples
        self._steps = num_samples // lanes
        self._seed = seed

    def __len__(self) -> int:
        return self._steps * self.lanes

    def indices(self, start: int, stop: int) -> Indices:
        return self.at(np.arange(start, stop, dtype=np.int64))[0]

    def at(self, positions: Indices) -> tuple[Indices, npt.NDArray[np.bool_]]:
        """Sample indices at the positions, and where one does not continue the row before; both `[num_positions]`."""
        step, lane = np.divmod(positions, self.lanes)
        number, t = np.divmod(step, self._steps)
        passes, which = np.unique(number, return_inverse=True)
        begins = np.array([self._begin(int(p)) for p in passes], dtype=np.int64)
        samples = (begins[which] + lane * self._steps + t) % self._num_samples
        return samples, (t == 0) | (samples == 0)

    def _begin(self, number: int) -> int:
        state = np.random.SeedSequence((self._seed, number)).generate_state(1, np.uint64)
        return int(state[0]) % self._num_samples


class Positions(SampleOrder):
    """Each position itself, for sequences that are asked for by position.

    Arguments:
        count: positions of one pass.
    """

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def indices(self, start: int, stop: int) -> Indices:
        return np.arange(start, stop, dtype=np.int64)


class CarriedSequences(Sequences):
    """Sequences by their position in training; a batch also holds `fresh` bool `[B]`: rows that continue nothing.

    Arguments:
        sequences: by index.
        order: of the indices.
    """

    def __init__(self, sequences: Sequences, order: CarriedOrder) -> None:
        self.sequences = sequences
        self.order = order
        self.sequence_length = sequences.sequence_length
        self.samples_per_chunk = sequences.samples_per_chunk

    def fill(self, index: int, tokens: Tokens, mask: Mask | None) -> None:
        self.sequences.fill(index, tokens, mask)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The sequences at positions of training, which have no end."""
        samples, fresh = self.order.at(np.asarray(indices, dtype=np.int64))
        return {**super().__getitems__(samples.tolist()), "fresh": torch.from_numpy(fresh)}
