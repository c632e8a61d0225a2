"""Keys and values with overwrites: the latest value counts, however long ago it was written."""

from __future__ import annotations

import numpy as np

from gecko_lab.data.synthetic.draws import Draws, Integers
from gecko_lab.data.synthetic.task import Sample, SyntheticTask

_FILLER, _WRITE, _READ = 0, 1, 2
_KEYS = 3


class KeyValueOverwrites(SyntheticTask):
    """Reads of a store whose entries are overwritten; a task of ours beside that of arXiv 2312.04927.

    The sample is made of steps of three tokens: `write key value`, `read key value` or three times filler; the tokens
    left over at its beginning are filler. The answer to `read key` is the value of the latest write to that key. The
    distance between the two is drawn uniformly among those that the steps allow, so that one can ask beyond what
    attention sees. No key is read twice: a read cannot be answered from an earlier one. The other writes go to keys
    drawn uniformly among those that are not waiting for their read, at places drawn uniformly. Ids: filler 0, `write`
    1, `read` 2, then the keys, then the values.

    Args:
        length: Tokens that the model reads per sample.
        num_keys: Keys, more than `num_reads`.
        num_values: Values.
        num_writes: Writes, at least as many as reads.
        num_reads: Reads, and so answers.
        min_distance: Fewest tokens from the value that was written to the key that asks for it.
        max_distance: Most of them; by default as many as the length allows.
    """

    def __init__(
        self,
        *,
        length: int = 512,
        num_keys: int = 16,
        num_values: int = 16,
        num_writes: int = 32,
        num_reads: int = 8,
        min_distance: int = 2,
        max_distance: int | None = None,
    ) -> None:
        self.length, self.num_keys, self.num_values = length, num_keys, num_values
        self.num_writes, self.num_reads = num_writes, num_reads
        self.min_distance, self.max_distance = min_distance, max_distance
        self.require("num_reads", num_reads, 1)
        self.require("num_keys", num_keys, num_reads + 1)
        self.require("num_values", num_values, 2)
        self.require("num_writes", num_writes, num_reads)
        self.require("min_distance", min_distance, 2)
        self._num_steps = (length + 1) // 3
        # The pairs of steps at a given gap are as many as the steps less the gap; each pair taken spoils at most 4.
        largest_gap = self._num_steps - 4 * (num_reads - 1) - 1
        self._min_gap = -(-(min_distance + 1) // 3)  # a distance is 3 · gap − 1
        self._max_gap = largest_gap if max_distance is None else (max_distance + 1) // 3
        if self._max_gap < self._min_gap and max_distance is not None:
            raise self.refuse("max_distance", max_distance, f"the next after min_distance is {3 * self._min_gap - 1}")
        num_steps = max(max(self._min_gap, self._max_gap) + 4 * (num_reads - 1) + 1, num_writes + num_reads)
        self.require("length", length, 3 * num_steps - 1)
        self.vocab_size = _KEYS + num_keys + num_values
        self.chance = 1 / num_values
        self.num_answers = num_reads

    def draw(self, draws: Draws) -> Sample:
        """See the class."""
        read_keys = draws.distinct(self.num_keys, self.num_reads)
        first, last = self._pairs(draws)
        num_others = self.num_writes - self.num_reads
        free = np.ones(self._num_steps, dtype=np.bool_)
        free[first] = free[last] = False
        others = np.flatnonzero(free)[draws.distinct(int(free.sum()), num_others)]
        values = draws.integers(self.num_values, self.num_writes)

        steps = np.full((self._num_steps, 3), _FILLER, dtype=np.int64)
        steps[others, 1] = self._keys_of_others(draws, others, read_keys, first, last)
        steps[first, 1] = steps[last, 1] = read_keys
        steps[first, 2] = steps[last, 2] = values[: self.num_reads]
        steps[others, 2] = values[self.num_reads :]
        used = np.concatenate([first, last, others])
        steps[used] += np.array([_WRITE, _KEYS, _KEYS + self.num_keys])
        steps[last, 0] = _READ

        rest = self.length + 1 - 3 * self._num_steps
        tokens = np.concatenate([np.full(rest, _FILLER, dtype=np.int64), steps.ravel()])
        distances = np.full(self.length, -1, dtype=np.int64)
        distances[rest + 3 * last + 1] = 3 * (last - first) - 1
        return Sample(tokens, distances)

    def _pairs(self, draws: Draws) -> tuple[Integers, Integers]:
        """For each read, the step of its write and its own, int64 `[num_reads]` each; no step twice."""
        gaps = self._min_gap + draws.integers(self._max_gap - self._min_gap + 1, self.num_reads)
        first = np.empty(self.num_reads, dtype=np.int64)
        free = np.ones(self._num_steps, dtype=np.bool_)
        for i, gap in enumerate(gaps):
            candidates = np.flatnonzero(free[:-gap] & free[gap:])
            first[i] = candidates[draws.integer(len(candidates))]
            free[[first[i], first[i] + gap]] = False
        return first, first + gaps

    def _keys_of_others(
        self, draws: Draws, others: Integers, read_keys: Integers, first: Integers, last: Integers
    ) -> Integers:
        """A key for each of the other writes: none that was written for a read that is still to come."""
        allowed = np.ones((len(others), self.num_keys), dtype=np.bool_)
        allowed[:, read_keys] = (others[:, None] < first) | (others[:, None] > last)
        order = np.argsort(~allowed, axis=1, kind="stable")  # the allowed ones first
        return order[np.arange(len(others)), draws.integers(allowed.sum(axis=1), len(others))]
