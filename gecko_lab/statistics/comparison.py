"""Every variant against the base, over the seeds that pair them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics.block_model import BlockModel, block_model
from gecko_lab.statistics.inference import COLUMNS, Correction, judge
from gecko_lab.statistics.planning import VARIANCES, Variance
from gecko_lab.statistics.results import Results

ALARM = 0.01  # p-value of the test for unequal noise below which a comparison cautions


@dataclass(frozen=True)
class Comparison:
    """Paired differences, variant − base.

    Attributes:
        base: the variant that the others are compared with.
        table: one row for each compared variant, in the results' order. Columns: `variant`, `num_seeds` (seeds that it
            shares with the base), `mean_of_pairs` (of the differences over these seeds) and those of `judge`:
            `difference` (the estimate: with no run missing the same as `mean_of_pairs`), `standard_error`,
            `degrees_of_freedom`, `p_value`, `adjusted_p_value`, `significant`, `low`, `high`, `individual_low`,
            `individual_high`, `detectable`. What the noise is needed for is NaN where the noise is unknown.
        not_compared: for each variant that cannot be compared the reason why.
        failures: the runs that were left out, as in `Results`.
        paired_standard_deviation: √2 × the pooled noise, in the value's units; NaN where it is unknown.
        unequal_noise_p_value: of Bartlett's test on the residuals that all variants have equal noise: where it is
            small, pooled noise misleads. NaN where it cannot be had. It errs on the side of not alarming.
        assumption: what the tests take for granted, in words.
        level, correction, variance, power: as given to `compare`.
    """

    base: str
    table: pd.DataFrame
    not_compared: dict[str, str]
    failures: pd.DataFrame
    paired_standard_deviation: float
    unequal_noise_p_value: float
    assumption: str
    level: float
    correction: Correction
    variance: Variance
    power: float

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader must know before believing the table: a sentence each, none where all is well."""
        cautions = []
        if len(self.failures):
            cautions.append(f"{len(self.failures)} runs have no finite value and are left out")
        if math.isnan(self.paired_standard_deviation):
            cautions.append("the noise between seeds is unknown: it takes two seeds in two variants")
        elif self.paired_standard_deviation == 0:
            cautions.append("seeds change nothing but a common shift: check that they reach the runs")
        if self.variance == "pooled" and self.unequal_noise_p_value < ALARM:
            cautions.append(
                f"the variants seem to differ in their noise (Bartlett's test, p = {self.unequal_noise_p_value:.1g}), "
                'which the pooled intervals do not show: compare with variance="separate"'
            )
        return tuple(cautions)


def compare(
    results: Results,
    *,
    base: str,
    level: float = 0.95,
    variance: Variance = "pooled",
    correction: Correction = "holm",
    power: float = 0.8,
) -> Comparison:
    """Compare every variant with the base.

    Args:
        results: the runs; failed ones are left out and reported.
        base: name of the variant to compare with.
        level: of the intervals; 1 − level is the highest probability of any false finding among the variants.
        variance: `pooled` takes the noise to be the same in every variant and measures it over all of them (least
            squares with the seed as a block; where runs are missing, the difference uses the unpaired ones as well);
            `separate` takes each variant's own paired differences and no others (a paired t test).
        correction: `holm`, or `bonferroni`, whose intervals cover all differences at once.
        power: the probability behind the column `detectable`.

    Raises:
        ConfigurationError: the base is unknown or has no finite value, there is no other variant, none shares a seed
            with it, or an option has no meaning.
    """
    if variance not in VARIANCES:
        raise ConfigurationError(f"variance is one of {', '.join(VARIANCES)}, but it is {variance!r}")
    results.require_variant(base)
    if len(results.variants) == 1:
        raise ConfigurationError(f"There is nothing to compare: {base!r} is the only variant in these results")
    pairs, not_compared = _pairs(results, base)
    if not pairs:
        raise ConfigurationError(
            f"No variant has a finished run with a seed that {base!r} has finished as well, so nothing is paired: "
            "run every variant with the same seeds"
        )
    model, variants = block_model(results.table)
    if variance == "pooled":
        differences, errors, freedoms = _pooled(model, variants, base, list(pairs))
        assumption = (
            "the noise between seeds is normal, of the same size in every variant; a seed moves all variants alike"
        )
    else:
        differences, errors, freedoms = _separate(pairs, model.rounding)
        assumption = "the paired differences of each variant are normal"
    judged = judge(differences, errors, freedoms, level=level, correction=correction, power=power)
    head = pd.DataFrame(
        {
            "variant": list(pairs),
            "num_seeds": [len(pair) for pair in pairs.values()],
            "mean_of_pairs": [pair.mean() for pair in pairs.values()],
        }
    )
    return Comparison(
        base=base,
        table=pd.concat([head, judged[list(COLUMNS)]], axis=1),
        not_compared=not_compared,
        failures=results.failures,
        paired_standard_deviation=math.sqrt(2) * model.noise,
        unequal_noise_p_value=_unequal_noise(model),
        assumption=assumption,
        level=level,
        correction=correction,
        variance=variance,
        power=power,
    )


def _pairs(results: Results, base: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """For each variant its differences to the base over the common seeds, or the reason why there are none."""
    values = results.table.set_index(["variant", "seed"])["value"]
    of_base = values.loc[base]
    pairs, not_compared = {}, {}
    for variant in results.variants:
        if variant == base:
            continue
        if not results.finished_seeds(variant):
            not_compared[variant] = "no run has a finite value"
            continue
        of_variant = values.loc[variant]
        common = of_variant.index.intersection(of_base.index).sort_values()
        if len(common):
            pairs[variant] = of_variant.loc[common].to_numpy(dtype=float) - of_base.loc[common].to_numpy(dtype=float)
        else:
            not_compared[variant] = f"no seed in common with {base}"
    return pairs, not_compared


def _pooled(
    model: BlockModel, variants: list[str], base: str, compared: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences, standard errors and degrees of freedom [C] from the block model."""
    position = {variant: column for column, variant in enumerate(variants)}
    # A contrast for every variant, always in the order of names: then no last bit depends on the order of the rows.
    contrasts = np.eye(len(variants))
    contrasts[:, position[base]] -= 1
    differences, unit_errors = model.estimates(contrasts)
    chosen = [position[variant] for variant in compared]
    freedoms = np.full(len(chosen), float(model.degrees_of_freedom))
    return differences[chosen], model.noise * unit_errors[chosen], freedoms


def _separate(pairs: dict[str, np.ndarray], rounding: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same, from each variant's own pairs; one pair tells nothing of its noise."""
    rows = []
    for pair in pairs.values():
        difference, error = float(pair.mean()), math.nan
        if len(pair) > 1:
            error = float(stats.sem(pair))
            if error <= rounding:
                error = 0.0
                difference = difference if abs(difference) > rounding else 0.0
        rows.append((difference, error, len(pair) - 1.0))
    differences, errors, freedoms = np.array(rows).T
    return differences, errors, freedoms


def _unequal_noise(model: BlockModel) -> float:
    """P-value of Bartlett's test between the variants' residuals; NaN where it has nothing to go by."""
    variants = model.table["variant"].to_numpy()
    groups = [model.residuals[variants == variant] for variant in sorted(set(variants))]
    groups = [group for group in groups if len(group) > 1]
    if len(groups) < 3 or any(np.ptp(group) <= model.rounding for group in groups):
        return math.nan  # two variants have the same residuals but for the sign
    return float(stats.bartlett(*groups).pvalue)
