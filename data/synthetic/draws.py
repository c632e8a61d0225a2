"""Random draws that are the same on every machine and with every version of NumPy.

NumPy promises that a bit generator's raw output never changes; it does not promise this of `Generator`'s methods. What
is made of the raw output here is integer arithmetic and single products of doubles, which IEEE 754 rounds one way only.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


class Draws:
    """A stream of draws.

    Arguments:
        seed: 0 to 2³² − 1.
        index: at least 0; with the seed it names the stream.
    """

    def __init__(self, seed: int, index: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence((seed, index)))

    def integers(self, bound: int | Integers, count: int) -> Integers:
        """Uniform in `[0, bound)`, int64 `[count]`; `bound`, one or `[count]`, is at least 1 and at most 2⁵³."""
        units = (self._bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53  # exact, below 1
        return (units * bound).astype(np.int64)

    def integer(self, bound: int) -> int:
        """Uniform in `[0, bound)`."""
        return int(self.integers(bound, 1)[0])

    def distinct(self, bound: int, count: int) -> Integers:
        """Uniform in `[0, bound)` without replacement, in the order drawn, int64 `[count]`; `count` at most `bound`."""
        return self._first_distinct(lambda n: self.integers(bound, n), count)

    def distinct_weighted(self, cumulative: Integers, count: int) -> Integers:
        """Drawn one after another in proportion to weights, without replacement, int64 `[count]`.

        Arguments:
            cumulative: cumulative sums of positive integer weights, `[bound]`; their total is at most 2⁵³.
            count: at most `bound`.
        """
        total = int(cumulative[-1])
        return self._first_distinct(lambda n: np.searchsorted(cumulative, self.integers(total, n), side="right"), count)

    @staticmethod
    def _first_distinct(draw: Callable[[int], npt.NDArray[np.integer]], count: int) -> Integers:
        """The first `count` different values of an endless sequence of draws."""
        found = np.empty(0, dtype=np.int64)
        while len(found) < count:
            found = np.concatenate([found, draw(2 * count)])
            _, first = np.unique(found, return_index=True)
            found = found[np.sort(first)]
        return found[:count]


def power_law(bound: int, exponent: float) -> Integers:
    """Cumulative weights of `x ** exponent` for x = 1 … bound, for `Draws.distinct_weighted`; int64 `[bound]`.

    Computed in decimal, because the last bit of a floating-point power differs between machines.
    """
    with localcontext(Context(prec=20)):
        powers = [Decimal(x) ** Decimal(str(exponent)) for x in range(1, bound + 1)]
        unit = 2**52 // bound / max(powers)  # the total stays below 2⁵³
        return np.cumsum(np.array([max(1, int(unit * power)) for power in powers], dtype=np.int64))
