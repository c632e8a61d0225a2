"""A variant's value over its seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from gecko_lab.reports.document import Cell, with_interval
from gecko_lab.reports.run_data import RunData
from gecko_lab.reports.study import Study, Variant

LEVEL = 0.95


@dataclass(frozen=True)
class Spread:
    """Mean over seeds with the t interval at `LEVEL` from these seeds alone; NaN where one seed tells nothing."""

    mean: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread:
    """Of at least one finite value."""
    array = np.array(list(values), dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Spread(mean, math.nan, math.nan, len(array))
    error = float(stats.sem(array))
    if error == 0:
        return Spread(mean, mean, mean, len(array))
    low, high = stats.t.interval(LEVEL, len(array) - 1, loc=mean, scale=error)
    return Spread(mean, float(low), float(high), len(array))


def finite(variant: Variant, value: Callable[[RunData], float | None]) -> list[tuple[RunData, float]]:
    """The runs that count and have a finite value, with it."""
    found = [(run, value(run)) for run in variant.counting]
    return [(run, number) for run, number in found if number is not None and math.isfinite(number)]


def spread_cell(study: Study, variant: Variant, value: Callable[[RunData], float | None], what: str) -> Cell:
    """Mean and interval over the variant's finished runs, with their folders as the source.

    Args:
        study: of the variant.
        variant: whose runs are taken.
        value: of a run.
        what: file and column that it comes from.
    """
    found = finite(variant, value)
    if not found:
        return Cell("–")
    of = spread(number for _, number in found)
    folders = ", ".join(study.relative(run) for run, _ in found)
    how = what if of.count == 1 else f"mean over {of.count} seeds of {what}"
    return Cell(with_interval(of.mean, of.low, of.high), of.mean, f"{how} in {folders}")
