"""In which order samples are seen, apart from how they are stored and who asks for them.

An order gives the sample at each position of an endless sequence: position p is what training sees as its p-th sample,
whatever the number of ranks, workers and restarts. A sampler cuts the positions into global batches and each global
batch into the ranks' shares.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from torch.utils.data.distributed import DistributedSampler

Indices = npt.NDArray[np.int64]


class SampleOrder(ABC):
    """An endless sequence of sample indices."""

    @abstractmethod
    def __len__(self) -> int:
        """Samples in one pass over the data (an epoch)."""

    @abstractmethod
    def indices(self, start: int, stop: int) -> Indices:
        """Sample indices, int64 `[stop - start]`, at positions `start` to `stop`, both at least 0."""


class ShuffledOrder(SampleOrder):
    """A new permutation for each pass: a function of seed and position alone.

    Chunks are permuted and taken a window at a time, and the samples of a window are permuted together. With no more
    chunks than a window holds this is a permutation of everything; with more, it needs the memory of one window only,
    and reads chunk files that lie far away in turn.

    Arguments:
        samples_per_chunk: how many samples each chunk holds, in the order of their indices; not all 0.
        seed: of the permutations.
        window: chunks whose samples are mixed.
    """

    def __init__(self, samples_per_chunk: Sequence[int] | Indices, seed: int, window: int = 16) -> None:
        self._counts = np.asarray(samples_per_chunk, dtype=np.int64)
        self._starts = np.cumsum(self._counts) - self._counts
        self._seed = seed
        self._window = window
        self._chunks: tuple[int, Indices, Indices] | None = None
        self._shuffled: tuple[int, int, Indices] | None = None

    def __len__(self) -> int:
        return int(self._counts.sum())

    def indices(self, start: int, stop: int) -> Indices:
        pieces = [np.empty(0, dtype=np.int64)]
        while start < stop:
            epoch, begin = divmod(start, len(self))
            end = min(begin + stop - start, len(self))
            pieces += self._of_epoch(epoch, begin, end)
            start += end - begin
        return np.concatenate(pieces)

    def _of_epoch(self, epoch: int, start: int, stop: int) -> Iterator[Indices]:
        """The samples at positions `start` to `stop` of the epoch, a window's at a time."""
        ends = self._chunk_order(epoch)[1]
        while start < stop:
            window = int(np.searchsorted(ends, start, side="right"))
            begin = int(ends[window - 1]) if window else 0
            end = min(stop, int(ends[window]))
            yield self._window_order(epoch, window)[start - begin : end - begin]
            start = end

    def _chunk_order(self, epoch: int) -> tuple[Indices, Indices]:
        """The chunks in the epoch's order, and the position at which each window of them ends."""
        if self._chunks is None or self._chunks[0] != epoch:
            chunks = permutation(len(self._counts), self._seed, epoch, 0)
            ends = np.cumsum(np.add.reduceat(self._counts[chunks], np.arange(0, len(chunks), self._window)))
            self._chunks = epoch, chunks, ends
        return self._chunks[1:]

    def _window_order(self, epoch: int, window: int) -> Indices:
        if self._shuffled is None or self._shuffled[:2] != (epoch, window):
            chunks = self._chunk_order(epoch)[0][window * self._window : (window + 1) * self._window]
            samples = np.concatenate([np.arange(self._starts[c], self._starts[c] + self._counts[c]) for c in chunks])
            shuffled = samples[permutation(len(samples), self._seed, epoch, window + 1)]
            self._shuffled = epoch, window, shuffled
        return self._shuffled[2]


class SpreadOrder(SampleOrder):
    """The same in every pass, as stored: all samples, or `limit` of them spread evenly over the whole.

    Arguments:
        num_samples: how many there are.
        limit: how many to take; None for all.
    """

    def __init__(self, num_samples: int, limit: int | None = None) -> None:
        self._num_samples = num_samples
        self._count = num_samples if limit is None else min(limit, num_samples)

    def __len__(self) -> int:
        return self._count

    def indices(self, start: int, stop: int) -> Indices:
        positions = np.arange(start, stop, dtype=np.int64) % max(self._count, 1)
        return positions * self._num_samples // max(self._count, 1)


class TrainingSampler(DistributedSampler[int]):
    """One rank's samples of every global batch of `num_replicas * batch_size` positions, without end.

    An iteration begins where training stands; its length is that of one pass, in whole optimiser steps, so that each
    step takes as many samples. What is left over at the end of a pass begins the next one: no sample is passed over. It
    is a `DistributedSampler` in order that Lightning does not put one in its place.

    Arguments:
        order: of the samples.
        batch_size: samples of one rank in one step.
        num_replicas: ranks that share the data.
        rank: of this process among them.
        position: gives the position at which the next global batch begins.
        batches_per_step: how many are accumulated to an optimiser step.
    """

    def __init__(
        self,
        order: SampleOrder,
        *,
        batch_size: int,
        num_replicas: int,
        rank: int,
        position: Callable[[], int],
        batches_per_step: int = 1,
    ) -> None:
        super().__init__(range(len(order)), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.order = order
        self.batch_size = batch_size
        self.batches_per_step = batches_per_step
        self._position = position

    def __len__(self) -> int:
        batches = len(self.order) // (self.batch_size * self.num_replicas)
        steps = max(batches // self.batches_per_step, min(batches, 1))  # a pass shorter than a step is gone on with
        return steps * self.batches_per_step * self.batch_size

    def __iter__(self) -> Iterator[int]:
        begin = self._position() + self.rank * self.batch_size
        while True:
            yield from self.order.indices(begin, begin + self.batch_size).tolist()
            begin += self.batch_size * self.num_replicas


class EvaluationSampler(DistributedSampler[int]):
    """One rank's samples of one pass, dealt out in global batches.

    The last ones are dealt out equally, and only those that cannot be (fewer than `num_replicas`) are left out, so that
    all ranks take as many steps. The arguments are those of `TrainingSampler`.
    """

    def __init__(self, order: SampleOrder, *, batch_size: int, num_replicas: int, rank: int) -> None:
        super().__init__(range(len(order)), num_replicas, rank, shuffle=False)  # type: ignore[arg-type]
        self.order = order
        self.batch_size = batch_size
        self._num_positions = len(order) - len(order) % num_replicas

    def __len__(self) -> int:
        return self._num_positions // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        global_batch = self.batch_size * self.num_replicas
        for start in range(0, self._num_positions, global_batch):
            share = min(global_batch, self._num_positions - start) // self.num_replicas
            begin = start + self.rank * share
            yield from self.order.indices(begin, begin + share).tolist()


def permutation(length: int, *seeds: int) -> Indices:
    """A permutation of `range(length)` that depends on the seeds alone.

    Sorts the raw output of a bit generator: NumPy promises that it never changes, unlike `Generator.permutation`.
    """
    keys = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(length)
    return np.argsort(keys, kind="stable").astype(np.int64)
