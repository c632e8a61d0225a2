"""The noise floor: how much equal configurations differ when only the seed differs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics.block_model import BlockModel, block_model
from gecko_lab.statistics.results import Results


@dataclass(frozen=True)
class Deviation:
    """A standard deviation, in the value's units, with its confidence interval.

    Attributes:
        value: the estimate.
        low: lower end of the interval.
        high: upper end.
        degrees_of_freedom: of the chi-square distribution behind the interval; need not be whole.
    """

    value: float
    low: float
    high: float
    degrees_of_freedom: float


@dataclass(frozen=True)
class NoiseFloor:
    """What the seeds do.

    Attributes:
        between_seeds: of one run around its variant's mean, pooled over the variants; None where no variant has two
            seeds.
        paired: of the difference of two variants with the same seed, pooled over all pairs; None without two seeds in
            two variants. It is below √2 × `between_seeds` as far as the seeds move all variants alike.
        by_variant: one row for each variant, columns `variant`, `num_seeds`, `mean`, `standard_deviation` (NaN with one
            seed).
        level: of the confidence intervals.
    """

    between_seeds: Deviation | None
    paired: Deviation | None
    by_variant: pd.DataFrame
    level: float

    @property
    def planning_deviation(self) -> float | None:
        """The standard deviation of paired differences to plan with: `paired`, or else √2 × `between_seeds`, as if
        pairing gained nothing; None where both are unknown.
        """
        if self.paired is not None:
            return self.paired.value
        return None if self.between_seeds is None else math.sqrt(2) * self.between_seeds.value


def noise_floor(results: Results, *, level: float = 0.95) -> NoiseFloor:
    """Standard deviations between seeds, with chi-square confidence intervals at `level`.

    The variants of one seed are correlated, so the deviation within variants has fewer effective degrees of freedom
    than
    runs: they are matched to its variance under the block model (Satterthwaite 1946, Biometrics Bulletin 2, 110-114).
    """
    if not 0 < level < 1:
        raise ConfigurationError(f"level is a probability between 0 and 1, such as 0.95, but it is {level}")
    rows = []
    for variant in results.variants:
        values = results.table.loc[results.table["variant"] == variant, "value"].to_numpy(dtype=float)
        rows.append(
            {
                "variant": variant,
                "num_seeds": len(values),
                "mean": values.mean() if len(values) else math.nan,
                "standard_deviation": values.std(ddof=1) if len(values) > 1 else math.nan,
            }
        )
    if not len(results.table):
        return NoiseFloor(between_seeds=None, paired=None, by_variant=pd.DataFrame(rows), level=level)
    model, _ = block_model(results.table)
    paired = None
    if model.degrees_of_freedom:
        paired = _deviation(math.sqrt(2) * model.noise, model.degrees_of_freedom, level)
    return NoiseFloor(
        between_seeds=_between_seeds(model, level), paired=paired, by_variant=pd.DataFrame(rows), level=level
    )


def _deviation(value: float, degrees_of_freedom: float, level: float) -> Deviation:
    low, high = stats.chi2.interval(level, degrees_of_freedom)
    scale = value * math.sqrt(degrees_of_freedom)
    return Deviation(value, scale / math.sqrt(high), scale / math.sqrt(low), degrees_of_freedom)


def _between_seeds(model: BlockModel, level: float) -> Deviation | None:
    """Pooled deviation within the variants, with effective degrees of freedom."""
    variants, seeds = model.table["variant"].to_numpy(), model.table["seed"].to_numpy()
    values = model.table["value"].to_numpy(dtype=float)
    same_variant = (variants[:, None] == variants).astype(float)
    centring = np.eye(len(values)) - same_variant / same_variant.sum(axis=1)
    freedom = len(values) - len(set(variants))
    if not freedom:
        return None
    centred = centring @ (values - values.mean())
    variance = float(centred @ centred) / freedom
    if variance <= model.rounding**2:
        return _deviation(0.0, freedom, level)
    correlation = 0.0
    if model.degrees_of_freedom:
        correlation = max(0.0, 1 - model.noise**2 / variance)
    correlations = np.where(seeds[:, None] == seeds, correlation, 0.0)
    np.fill_diagonal(correlations, 1.0)
    spread = centring @ correlations
    return _deviation(math.sqrt(variance), freedom**2 / float((spread * spread.T).sum()), level)
