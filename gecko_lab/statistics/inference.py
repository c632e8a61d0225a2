"""From estimates and standard errors to p-values, their correction, and the intervals that agree with it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics.planning import smallest_shift

Array = NDArray[np.float64]
Correction = Literal["holm", "bonferroni"]
CORRECTIONS = ("holm", "bonferroni")
SAME = 1e-9  # relative difference of p-values that is no more than rounding
COLUMNS = (
    "difference",
    "standard_error",
    "degrees_of_freedom",
    "p_value",
    "adjusted_p_value",
    "significant",
    "low",
    "high",
    "individual_low",
    "individual_high",
    "detectable",
)


def require_probability(name: str, value: float) -> None:
    """Raise ConfigurationError unless 0 < value < 1."""
    if not 0 < value < 1:
        raise ConfigurationError(f"{name} is a probability between 0 and 1, such as 0.95, but it is {value}")


def judge(
    differences: Array,
    standard_errors: Array,
    degrees_of_freedom: Array,
    *,
    level: float,
    correction: Correction = "holm",
    power: float = 0.8,
) -> pd.DataFrame:
    """Two-sided t tests of the differences [C] against zero, as one family.

    A standard error of NaN means that the noise is unknown: the row has a difference and nothing else, and does not
    count in the family. A standard error of 0 means that there is no noise: any difference but 0 is significant.

    Returns:
        A frame of C rows with `COLUMNS`: `difference`, `standard_error`, `degrees_of_freedom`, `p_value`,
        `adjusted_p_value`, `significant` (bool), `low` and `high` (the interval that leaves out zero exactly where
        `significant`), `individual_low` and `individual_high` (the interval at `level` for this one alone),
        `detectable` (the smallest true difference that this test finds with probability `power`, were it the only one).
    """
    require_probability("level", level)
    require_probability("power", power)
    if correction not in CORRECTIONS:
        raise ConfigurationError(f"correction is one of {', '.join(CORRECTIONS)}, but it is {correction!r}")
    count = len(differences)
    unknown = np.full(count, np.nan)
    known = np.isfinite(standard_errors)
    num_tests = int(known.sum())
    difference, error, freedom = differences[known], standard_errors[known], degrees_of_freedom[known]

    statistic = np.divide(np.abs(difference), error, out=np.where(difference == 0, 0.0, np.inf), where=error > 0)
    p_values = 2 * stats.t.sf(statistic, freedom)
    alpha = 1 - level
    if num_tests:
        significant, adjusted, *_ = multipletests(p_values, alpha=alpha, method=correction)
        tail = _alpha_of_each(p_values, significant, alpha, correction)
    else:
        significant, adjusted, tail = np.zeros(0, dtype=bool), p_values, p_values
    half = error * stats.t.isf(tail / 2, freedom)
    individual = error * stats.t.isf(alpha / 2, freedom)
    shifts = {
        df: smallest_shift(degrees_of_freedom=df, alpha=alpha / num_tests, power=power) for df in set(freedom.tolist())
    }
    detectable = error * np.array([shifts[df] for df in freedom.tolist()], dtype=float)

    def spread(values: Array) -> Array:
        column = unknown.copy()
        column[known] = values
        return column

    decided = np.zeros(count, dtype=bool)
    decided[known] = significant
    columns = {
        "difference": differences,
        "standard_error": standard_errors,
        "degrees_of_freedom": degrees_of_freedom,
        "p_value": spread(p_values),
        "adjusted_p_value": spread(adjusted),
        "significant": decided,
        "low": spread(difference - half),
        "high": spread(difference + half),
        "individual_low": spread(difference - individual),
        "individual_high": spread(difference + individual),
        "detectable": spread(detectable),
    }
    return pd.DataFrame(columns, columns=list(COLUMNS))


def _alpha_of_each(p_values: Array, significant: NDArray[np.bool_], alpha: float, correction: Correction) -> Array:
    """The error probability [C] at which each test was judged: Holm's step, where all that stayed share the last
    one.
    """
    num_tests = len(p_values)
    if correction == "bonferroni":
        return np.full(num_tests, alpha / num_tests)
    order = np.argsort(p_values)
    ascending = p_values[order]
    # Equal p-values share the stricter step, so that no result depends on the order of the variants; two variants with
    # the same runs have p-values that are equal but for rounding.
    starts = np.append(True, ascending[1:] > ascending[:-1] * (1 + SAME))
    position = np.arange(num_tests)
    step = np.empty(num_tests, dtype=int)
    step[order] = np.maximum.accumulate(np.where(starts, position, 0))
    alphas: Array = alpha / (num_tests - np.minimum(step, significant.sum()))
    return alphas
