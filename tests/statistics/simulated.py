"""Simulated grids, and the tests of many grids at once: written anew, so that they check the library as well."""

from __future__ import annotations

import numpy as np
from scipy import stats

from gecko_lab.statistics import Results, tidy_results

NUM_GRIDS = 2000


def simulated_values(
    num_grids: int, num_variants: int, num_seeds: int, *, key: int, block: float = 2.0, noise: float = 1.0
) -> np.ndarray:
    """Values [G, V, S] without any true difference: seeds move all variants alike, and each run has its own noise."""
    random = np.random.default_rng([key, num_variants, num_seeds])
    seeds = block * random.normal(size=(num_grids, 1, num_seeds))
    return 3.0 + seeds + noise * random.normal(size=(num_grids, num_variants, num_seeds))


def results_of(values: np.ndarray) -> Results:
    """Results of one grid from values [V, S]: variants v0, v1, …, seeds 0, 1, …; NaN is a failed run."""
    return tidy_results(
        {"variant": f"v{variant}", "seed": seed, "value": value}
        for variant, row in enumerate(values)
        for seed, value in enumerate(row)
    )


def pooled_tests(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Differences to the first variant [G, V-1], standard errors [G, 1], p-values and degrees of freedom, by the
    textbook's two-way analysis of variance of complete grids [G, V, S].
    """
    _, num_variants, num_seeds = values.shape
    differences = (values[:, 1:] - values[:, :1]).mean(axis=2)
    residuals = (
        values
        - values.mean(axis=1, keepdims=True)
        - values.mean(axis=2, keepdims=True)
        + values.mean(axis=(1, 2), keepdims=True)
    )
    freedom = (num_variants - 1) * (num_seeds - 1)
    errors = np.sqrt(2 / num_seeds * (residuals**2).sum(axis=(1, 2)) / freedom)[:, None]
    return differences, errors, 2 * stats.t.sf(np.abs(differences) / errors, freedom), freedom


def separate_p_values(values: np.ndarray) -> np.ndarray:
    """P-values [G, V-1] of a paired t test of each variant against the first one."""
    return stats.ttest_rel(values[:, 1:], values[:, :1], axis=2).pvalue


def holm(p_values: np.ndarray, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Which of p-values [G, C] are rejected, and at which error probability each was judged."""
    num_tests = p_values.shape[1]
    order = np.argsort(p_values, axis=1)
    steps = alpha / (num_tests - np.arange(num_tests))
    going_on = np.logical_and.accumulate(np.take_along_axis(p_values, order, axis=1) <= steps, axis=1)
    last = steps[np.minimum(going_on.sum(axis=1), num_tests - 1)][:, None]
    rejected, judged = np.empty(p_values.shape, dtype=bool), np.empty(p_values.shape)
    np.put_along_axis(rejected, order, going_on, axis=1)
    np.put_along_axis(judged, order, np.where(going_on, steps, last), axis=1)
    return rejected, judged


def family_rate(num_tests: int, freedom: int, *, correlation: float, alpha: float = 0.05) -> float:
    """The probability that the first step of Holm rejects one of equally correlated t statistics with nothing to find,
    by quadrature over the common noise estimate and the common part of the statistics.
    """
    bound = stats.t.isf(alpha / num_tests / 2, freedom)
    scales = np.sqrt(stats.chi2.ppf((np.arange(2000) + 0.5) / 2000, freedom) / freedom)[:, None]
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    common, own = np.sqrt(correlation) * nodes, np.sqrt(1 - correlation)
    inside = stats.norm.cdf((bound * scales - common) / own) - stats.norm.cdf((-bound * scales - common) / own)
    return 1 - float((inside**num_tests @ weights / weights.sum()).mean())


def within_binomial_bounds(found: np.ndarray, probability: float, *, risk: float = 1e-3) -> bool:
    """Whether the rate of `found` [G] is what this probability gives but in one case of 1 / risk."""
    low, high = stats.binom.interval(1 - risk, len(found), probability)
    return bool(low <= found.sum() <= high)
