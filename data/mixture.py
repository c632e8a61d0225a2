"""Several sources read together, each by its weight."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gecko_lab.data.errors import DataError
from gecko_lab.data.order import Indices, SampleOrder, SpreadOrder, permutation
from gecko_lab.data.sequences import Batch, Mask, Sequences, Tokens

# The arithmetic is in whole numbers, so that an order is the same on every machine: weights and the offsets of blocks
# are in units of 1 / _UNITS. Multiples of the golden ratio spread the offsets more evenly than any draw.
_UNITS = 1 << 40
_GOLDEN = round(_UNITS * (math.sqrt(5) - 1) / 2) | 1


@dataclass(frozen=True)
class MixtureSource:
    """One source of a mixture.

    Args:
        sources: Files, folders, globs, `stdlib`, or one prepared folder.
        weight: Share of the tokens that come from here; the weights of a mixture are divided by their sum.
        text_field: Field of .jsonl and column of .parquet that holds the text; by default the data's.
    """

    sources: str | list[str]
    weight: float
    text_field: str | None = None


def read_mixture(mixture: Mapping[str, Any]) -> dict[str, MixtureSource]:
    """The mixture with its sources as such; Python and checkpoints may give plain mappings.

    Raises:
        DataError: no source, a source with other keys, or a weight that is not a positive number.
    """
    if not mixture:
        raise DataError("mixture: it has no source; give at least one, as in {code: {sources: stdlib, weight: 1}}.")
    sources = {}
    for name, source in mixture.items():
        try:
            sources[name] = MixtureSource(**source) if isinstance(source, Mapping) else source
        except TypeError as error:
            raise DataError(f"mixture.{name}: {error}; its keys are sources, weight and text_field.") from error
        weight = sources[name].weight
        if not (math.isfinite(weight) and weight > 0):
            raise DataError(f"mixture.{name}.weight must be a positive number, not {weight}; or leave {name} out.")
    return sources


class MixtureOrder(SampleOrder):
    """Takes samples of several sources in turn, so that every stretch holds each by its weight.

    Positions come in blocks of `block` positions. With c_k the sum of the first k weights, block b takes from source k

        floor(c_k · block + u_b) - floor(c_{k-1} · block + u_b),    u_b = the fraction of u_0 + b · golden ratio

    samples, in an order drawn for the block. A source's own order is walked from where the blocks before have left it,
    and that is known without walking them.

    Arguments:
        orders: of each source, in indices of its own; sample i of source k becomes i + the samples of those before it.
        num_samples: how many samples each source has.
        weights: positive; their sum does not matter.
        seed: of the blocks.
        block: positions of a block.
    """

    def __init__(
        self,
        orders: Sequence[SampleOrder],
        num_samples: Sequence[int],
        weights: Sequence[float],
        seed: int,
        block: int = 64,
    ) -> None:
        self._orders = orders
        self._offsets = [0, *itertools.accumulate(num_samples)]
        self._seed = seed
        self._block = block
        shares = [sum(weights[:k]) / sum(weights) for k in range(len(weights))]
        self._bounds = [*(round(share * block * _UNITS) for share in shares), block * _UNITS]
        self._begin = int(np.random.SeedSequence((seed, len(weights))).generate_state(1, np.uint64)[0]) % _UNITS
        self._last: tuple[int, Indices] | None = None

    def __len__(self) -> int:
        """As many as the sources hold together; a pass shows a source of more weight than size more than once."""
        return self._offsets[-1]

    def indices(self, start: int, stop: int) -> Indices:
        pieces = [np.empty(0, dtype=np.int64)]
        while start < stop:
            number, begin = divmod(start, self._block)
            end = min(begin + stop - start, self._block)
            pieces.append(self._of_block(number)[begin:end])
            start += end - begin
        return np.concatenate(pieces)

    def counts(self, blocks: int) -> list[int]:
        """How many samples the first `blocks` blocks take from each source."""
        # floor((x + u_b) / units) = floor((x + begin + b · golden) / units) - floor((begin + b · golden) / units)
        below = [_sum_of_floors(blocks, _UNITS, _GOLDEN, bound + self._begin) for bound in self._bounds]
        return [after - before for before, after in itertools.pairwise(below)]

    def _of_block(self, number: int) -> Indices:
        if self._last is None or self._last[0] != number:
            taken = self.counts(number)
            offset = (self._begin + number * _GOLDEN) % _UNITS
            ends = [(bound + offset) // _UNITS for bound in self._bounds]
            pieces = [
                order.indices(first, first + end - begin) + shift
                for order, shift, first, (begin, end) in zip(
                    self._orders, self._offsets[:-1], taken, itertools.pairwise(ends), strict=True
                )
            ]
            # the permutation says which source comes when; a source's samples stay in their order
            source = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
            places = np.argsort(source[permutation(self._block, self._seed, number)], kind="stable")
            samples = np.empty(self._block, dtype=np.int64)
            samples[places] = np.concatenate(pieces)
            self._last = number, samples
        return self._last[1]


class SpreadMixtureOrder(SampleOrder):
    """The same in every pass, source after source: all samples, or `limit` of them in proportion to the sources' sizes.

    Arguments:
        num_samples: how many samples each source has.
        limit: how many to take; None for all. Each source gives at least one.
    """

    def __init__(self, num_samples: Sequence[int], limit: int | None = None) -> None:
        total = sum(num_samples)
        share = 1.0 if limit is None else min(limit / max(total, 1), 1.0)
        orders = [SpreadOrder(count, max(round(count * share), 1)) for count in num_samples]
        begins = [0, *itertools.accumulate(num_samples)]
        pieces = [order.indices(0, len(order)) + begin for order, begin in zip(orders, begins, strict=False)]
        self._samples = np.concatenate([np.empty(0, dtype=np.int64), *pieces])

    def __len__(self) -> int:
        return len(self._samples)

    def indices(self, start: int, stop: int) -> Indices:
        return self._samples[np.arange(start, stop, dtype=np.int64) % max(len(self), 1)]


class MixtureSequences(Sequences):
    """The sequences of several sources as one; a batch also holds `sources` int64 `[B]`, each row's source.

    Arguments:
        parts: of each source, all of one length.
    """

    def __init__(self, parts: Sequence[Sequences]) -> None:
        self.parts = parts
        self.sequence_length = parts[0].sequence_length
        self.masked = any(part.masked for part in parts)
        self.samples_per_chunk = np.concatenate([part.samples_per_chunk for part in parts])
        self._begins = [0, *itertools.accumulate(len(part) for part in parts)]

    def __len__(self) -> int:
        return self._begins[-1]

    def fill(self, index: int, tokens: Tokens, mask: Mask | None) -> None:
        source = bisect_right(self._begins, index) - 1
        self.parts[source].fill(index - self._begins[source], tokens, mask)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        batch = super().__getitems__(indices)
        begins = batch["samples"].new_tensor(self._begins[1:])
        return {**batch, "sources": torch.searchsorted(begins, batch["samples"], right=True)}


def _sum_of_floors(count: int, divisor: int, factor: int, offset: int) -> int:
    """Σ floor((factor · i + offset) / divisor) over i from 0 to `count` - 1, exactly, in steps like Euclid's."""
    total = 0
    while count > 0:
        total += (count - 1) * count // 2 * (factor // divisor) + count * (offset // divisor)
        factor, offset = factor % divisor, offset % divisor
        last = factor * count + offset
        if last < divisor:
            break
        # the points under the line, counted along the other axis
        count, offset, divisor, factor = last // divisor, last % divisor, factor, divisor
    return total
