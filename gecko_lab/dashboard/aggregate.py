"""The curves of a variant: mean and interval over its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from gecko_lab.dashboard.curves import Curve, RunCurves

LEVEL = 0.95
"""Of the intervals; that of the report."""


@dataclass(frozen=True)
class Band:
    """A curve's mean over seeds and the interval of that mean.

    Attributes:
        steps: int64 `[P]`, rising.
        mean: float64 `[P]`, over the seeds that have come that far.
        lower, upper: float64 `[P]`, ends of the t interval of level `LEVEL`; the mean itself where there is one seed.
        num_seeds: int64 `[P]`.
    """

    steps: np.ndarray
    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    num_seeds: np.ndarray

    def thinned(self, points: int) -> Band:
        """See `evenly`."""
        kept = evenly(len(self.steps), points)
        return Band(*(part[kept] for part in (self.steps, self.mean, self.lower, self.upper, self.num_seeds)))


def evenly(count: int, points: int) -> np.ndarray:
    """Places of so many points at most, evenly among those there are, with the first and the last; int64, rising."""
    if count <= points:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, points).round().astype(np.int64))


def bands(runs: Sequence[RunCurves]) -> dict[str, Band]:
    """Every curve of a variant, by the name of the column.

    A point is made of every seed that has logged a step as late as that: where one of them has no value, there is
    no point. A seed that stopped early counts up to where it stopped.
    """
    names = sorted({name for run in runs for name in run.curves})
    return {name: band for name in names if (band := _band([run.curves.get(name) for run in runs])) is not None}


def _band(curves: Sequence[Curve | None]) -> Band | None:
    present = [curve for curve in curves if curve is not None]
    steps = np.unique(np.concatenate([curve.steps for curve in present]))
    values = np.full((len(present), len(steps)), np.nan)  # [S, P]
    has = np.zeros(values.shape, dtype=bool)
    for row, curve in enumerate(present):
        places = np.searchsorted(steps, curve.steps)
        values[row, places], has[row, places] = curve.values, True
    reached = np.array([curve.steps[-1] for curve in present])[:, None] >= steps
    whole = (has | ~reached).all(axis=0)
    steps, values, has = steps[whole], values[:, whole], has[:, whole]
    if not len(steps):
        return None
    count = has.sum(axis=0)
    mean = np.where(has, values, 0.0).sum(axis=0) / count
    with np.errstate(invalid="ignore"):  # infinite values have no spread
        squares = np.where(has, (values - mean) ** 2, 0.0).sum(axis=0)
    freedom = np.maximum(count - 1, 1)
    freedoms, which = np.unique(freedom, return_inverse=True)
    half = special.stdtrit(freedoms, (1 + LEVEL) / 2)[which] * np.sqrt(squares / freedom / count)
    half = np.where(count > 1, half, 0.0)
    return Band(steps, mean, mean - half, mean + half, count)
