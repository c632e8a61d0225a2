"""Before a grid starts: the smallest effect that it can find, and the seeds that an effect needs.

The test is that of `gecko_lab.statistics.comparison`: a paired difference over the seeds, its noise pooled over the
variants or estimated for each alone, judged at alpha / (number of comparisons). Holm's first step is that hard and its
later ones are easier, so the probabilities are exact for one true effect among none and lower bounds where there are
several. A finding counts where it has the right sign.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Literal

from scipy.optimize import brentq
from statsmodels.stats.power import TTestPower

from gecko_lab.errors import ConfigurationError

Variance = Literal["pooled", "separate"]
VARIANCES = ("pooled", "separate")


def power(
    effect: float,
    *,
    paired_standard_deviation: float,
    num_seeds: int,
    num_comparisons: int,
    level: float = 0.95,
    variance: Variance = "pooled",
) -> float | None:
    """The probability to find a true difference of `effect` between a variant and the base.

    Args:
        effect: the difference, in the value's units; its sign does not matter.
        paired_standard_deviation: between seeds, of the difference of two variants, in the value's units.
        num_seeds: runs of each variant.
        num_comparisons: variants beside the base.
        level: 1 − the probability of any false finding.
        variance: as for `compare`.

    Returns:
        A probability, or None with one seed: then the test has no noise to measure against.
    """
    _check(paired_standard_deviation, num_seeds, num_comparisons, level, variance)
    if num_seeds == 1:
        return None
    alpha = (1 - level) / num_comparisons
    if paired_standard_deviation == 0:
        return 1.0 if effect else alpha / 2
    shift = abs(effect) / paired_standard_deviation * math.sqrt(num_seeds)
    return shift_power(shift, degrees_of_freedom=_freedom(num_seeds, num_comparisons, variance), alpha=alpha)


def smallest_effect(
    *,
    paired_standard_deviation: float,
    num_seeds: int,
    num_comparisons: int,
    level: float = 0.95,
    power: float = 0.8,
    variance: Variance = "pooled",
) -> float | None:
    """The smallest true difference, in the value's units, that is found with probability `power`; None with one seed.

    The arguments are those of `power`.
    """
    _check(paired_standard_deviation, num_seeds, num_comparisons, level, variance)
    if num_seeds == 1:
        return None
    freedom = _freedom(num_seeds, num_comparisons, variance)
    shift = smallest_shift(degrees_of_freedom=freedom, alpha=(1 - level) / num_comparisons, power=power)
    return shift * paired_standard_deviation / math.sqrt(num_seeds)


def seeds_needed(
    effect: float,
    *,
    paired_standard_deviation: float,
    num_comparisons: int,
    level: float = 0.95,
    power: float = 0.8,
    variance: Variance = "pooled",
    max_seeds: int = 10_000,
) -> int | None:
    """The fewest seeds with which a true difference of `effect` is found with probability `power`.

    The other arguments are those of `power`. None where even `max_seeds` are too few.
    """
    if not abs(effect) > 0:
        raise ConfigurationError(f"No number of seeds finds an effect of {effect}: give one that is not zero")

    def enough(num_seeds: int) -> bool:
        smallest = smallest_effect(
            paired_standard_deviation=paired_standard_deviation,
            num_seeds=num_seeds,
            num_comparisons=num_comparisons,
            level=level,
            power=power,
            variance=variance,
        )
        return smallest is not None and smallest <= abs(effect)

    few, many = 1, 2
    while not enough(many):
        if many >= max_seeds:
            return None
        few, many = many, min(2 * many, max_seeds)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def shift_power(shift: float, *, degrees_of_freedom: float, alpha: float) -> float:
    """The probability that a two-sided t test at `alpha` rejects on the side of a true difference of `shift` standard
    errors.
    """
    # "larger" at alpha / 2 is the right side of the two-sided test; statsmodels' other side is NaN for large shifts.
    return float(TTestPower().power(shift, 1, alpha / 2, df=degrees_of_freedom, alternative="larger"))


@cache
def smallest_shift(*, degrees_of_freedom: float, alpha: float, power: float) -> float:
    """The true difference in standard errors that a two-sided t test at `alpha` finds with probability `power`."""
    if not alpha / 2 < power < 1:
        raise ConfigurationError(
            f"power is a probability between {alpha / 2:.3g} and 1, such as 0.8, but it is {power}"
        )

    def excess(shift: float) -> float:
        return shift_power(shift, degrees_of_freedom=degrees_of_freedom, alpha=alpha) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-12))


def _freedom(num_seeds: int, num_comparisons: int, variance: Variance) -> int:
    """Degrees of freedom of the noise in a grid without missing runs."""
    return (num_seeds - 1) * (num_comparisons if variance == "pooled" else 1)


def _check(deviation: float, num_seeds: int, num_comparisons: int, level: float, variance: Variance) -> None:
    if not (math.isfinite(deviation) and deviation >= 0):
        raise ConfigurationError(f"paired_standard_deviation is a finite number of at least 0, but it is {deviation}")
    if num_seeds < 1 or num_comparisons < 1:
        raise ConfigurationError(
            f"A grid has at least one seed and one variant beside the base, not {num_seeds} and {num_comparisons}"
        )
    if not 0 < level < 1:
        raise ConfigurationError(f"level is a probability between 0 and 1, such as 0.95, but it is {level}")
    if variance not in VARIANCES:
        raise ConfigurationError(f"variance is one of {', '.join(VARIANCES)}, but it is {variance!r}")
