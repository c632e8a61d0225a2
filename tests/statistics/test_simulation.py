"""The tests, intervals and stated powers against 2,000 simulated grids."""

import numpy as np
import pytest
from scipy import stats

from gecko_lab.statistics import compare, factorial_effects, power, smallest_effect, smallest_factorial_effects
from gecko_lab.statistics import tidy_results as tidy
from gecko_lab.statistics.inference import judge
from tests.statistics.simulated import (
    NUM_GRIDS,
    family_rate,
    holm,
    pooled_tests,
    results_of,
    separate_p_values,
    simulated_values,
    within_binomial_bounds,
)

GRIDS = [(variants, seeds) for variants in (1, 2, 4, 8) for seeds in (3, 5)]


@pytest.mark.parametrize(("comparisons", "seeds"), GRIDS)
def test_compare_rejects_at_its_nominal_rate_with_nothing_to_find(comparisons: int, seeds: int) -> None:
    values = simulated_values(NUM_GRIDS, comparisons + 1, seeds, key=1)
    _, _, p_values, freedom = pooled_tests(values)
    assert within_binomial_bounds(p_values[:, 0] <= 0.05, 0.05)
    assert stats.kstest(p_values[:, 0], "uniform").pvalue > 1e-3
    any_found = holm(p_values)[0].any(axis=1)
    exact = family_rate(comparisons, freedom, correlation=0.5)
    assert 0.03 < exact <= 0.05 + 1e-6
    assert within_binomial_bounds(any_found, exact)

    any_found = holm(separate_p_values(values))[0].any(axis=1)
    assert any_found.mean() <= stats.binom.isf(1e-3, NUM_GRIDS, 0.05) / NUM_GRIDS


@pytest.mark.parametrize(("comparisons", "seeds"), GRIDS)
def test_compare_is_the_test_that_is_simulated(comparisons: int, seeds: int) -> None:
    grid = simulated_values(2, comparisons + 1, seeds, key=2)
    grid[1, 1] -= 6.0
    differences, errors, p_values, freedom = pooled_tests(grid)
    rejected, judged = holm(p_values)
    half = errors * stats.t.isf(judged / 2, freedom)
    for number, values in enumerate(grid):
        table = compare(results_of(values), base="v0").table
        np.testing.assert_allclose(table["difference"], differences[number], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(table["p_value"], p_values[number], rtol=1e-9)
        np.testing.assert_array_equal(table["significant"], rejected[number])
        np.testing.assert_allclose(table["high"] - table["difference"], half[number], rtol=1e-9)
        separate = compare(results_of(values), base="v0", variance="separate").table
        np.testing.assert_allclose(separate["p_value"], separate_p_values(grid)[number], rtol=1e-9)


@pytest.mark.parametrize(("comparisons", "seeds"), GRIDS)
def test_smallest_effect_is_found_at_the_stated_power(comparisons: int, seeds: int) -> None:
    values = simulated_values(NUM_GRIDS, comparisons + 1, seeds, key=3)
    effect = smallest_effect(paired_standard_deviation=2**0.5, num_seeds=seeds, num_comparisons=comparisons)
    assert effect is not None
    values[:, 1] -= effect
    differences, _, p_values, _ = pooled_tests(values)
    found = holm(p_values)[0][:, 0] & (differences[:, 0] < 0)
    assert within_binomial_bounds(found, 0.8)

    separate = smallest_effect(
        paired_standard_deviation=2**0.5, num_seeds=seeds, num_comparisons=comparisons, variance="separate"
    )
    assert separate is not None
    assert separate >= effect * (1 - 1e-9)
    values[:, 1] += effect - separate
    assert within_binomial_bounds(holm(separate_p_values(values))[0][:, 0], 0.8)


@pytest.mark.parametrize(("comparisons", "seeds"), [(2, 3), (4, 3), (8, 3), (2, 5), (4, 5), (8, 5)])
def test_pooled_noise_finds_more_than_separate_noise(comparisons: int, seeds: int) -> None:
    values = simulated_values(NUM_GRIDS, comparisons + 1, seeds, key=4)
    values[:, 1] += 3.0
    pooled = holm(pooled_tests(values)[2])[0][:, 0].mean()
    separate = holm(separate_p_values(values))[0][:, 0].mean()
    assert pooled > separate + 0.1
    stated = power(3.0, paired_standard_deviation=2**0.5, num_seeds=seeds, num_comparisons=comparisons)
    assert stated == pytest.approx(pooled, abs=0.04)


@pytest.mark.parametrize("seeds", [3, 5])
def test_compare_with_equal_noise_assumed_errs_moderately_where_it_is_not(seeds: int) -> None:
    """What the package's description says of its assumption."""
    values = simulated_values(NUM_GRIDS, 5, seeds, key=5, block=0.0)
    values[:, 4] = 3.0 + 2.0 * (values[:, 4] - 3.0)
    assert holm(pooled_tests(values)[2])[0].any(axis=1).mean() < 0.07
    values[:, 4] = 3.0 + 2.0 * (values[:, 4] - 3.0)
    assert 0.07 < holm(pooled_tests(values)[2])[0].any(axis=1).mean() < 0.14
    assert holm(separate_p_values(values))[0].any(axis=1).mean() < 0.065


@pytest.mark.parametrize("seeds", [3, 5])
def test_compare_covers_true_differences(seeds: int) -> None:
    values = simulated_values(NUM_GRIDS, 5, seeds, key=6)
    true = np.array([0.0, 0.7, -2.0, 6.0])
    values[:, 1:] += true[:, None]
    differences, errors, p_values, freedom = pooled_tests(values)
    off = np.abs(differences - true)
    individual = off <= errors * stats.t.isf(0.025, freedom)
    adjusted = off <= errors * stats.t.isf(holm(p_values)[1] / 2, freedom)
    simultaneous = (off <= errors * stats.t.isf(0.025 / 4, freedom)).all(axis=1)
    for variant in range(4):
        assert within_binomial_bounds(individual[:, variant], 0.95)
        assert adjusted[:, variant].sum() >= individual[:, variant].sum()
    assert simultaneous.sum() >= stats.binom.ppf(1e-3, NUM_GRIDS, 0.95)


def factorial_runs(levels: tuple[int, ...], seeds: int) -> list[dict[str, object]]:
    """Runs of a full product without values, seeds fastest."""
    return [
        {
            "variant": "".join(map(str, cell)),
            **{axis: str(i) for axis, i in zip("abc", cell, strict=False)},
            "seed": seed,
        }
        for cell in np.ndindex(*levels)
        for seed in range(seeds)
    ]


def test_factorial_effects_have_their_nominal_error_and_find_at_the_stated_power() -> None:
    seeds, runs = 3, factorial_runs((2, 2, 2), 3)
    values = simulated_values(NUM_GRIDS, 8, seeds, key=7).reshape(NUM_GRIDS, 2, 2, 2, seeds)
    planned = smallest_factorial_effects(
        dict.fromkeys("abc", ("0", "1")), paired_standard_deviation=2**0.5, num_seeds=seeds
    )
    detectable = planned.set_index("effect")["detectable"]
    values[:, 1] += detectable["a: 1 − 0"]
    signs = np.array([-1, 1])
    # A quarter on each corner of a and c: their main effects stay as they are.
    corners = detectable["a: 1 − 0 × c: 1 − 0"] / 4 * np.multiply.outer(signs, signs)
    values += corners[None, :, None, :, None]
    effects = {
        "a": np.einsum("gabcs,a->g", values, signs) / 4 / seeds,
        "b": np.einsum("gabcs,b->g", values, signs) / 4 / seeds,
        "c": np.einsum("gabcs,c->g", values, signs) / 4 / seeds,
        "a×b": np.einsum("gabcs,a,b->g", values, signs, signs) / 2 / seeds,
        "a×c": np.einsum("gabcs,a,c->g", values, signs, signs) / 2 / seeds,
        "b×c": np.einsum("gabcs,b,c->g", values, signs, signs) / 2 / seeds,
    }
    flat = values.reshape(NUM_GRIDS, 8, seeds)
    _, errors, _, freedom = pooled_tests(flat)
    # The standard error of a difference of two cells is √(2 σ² / seeds); an effect weighs eight cells.
    scale = errors / np.sqrt(2) * np.array([np.sqrt(8) / 4] * 3 + [np.sqrt(8) / 2] * 3)
    p_values = 2 * stats.t.sf(np.abs(np.stack(list(effects.values()), axis=1)) / scale, freedom)
    main, interaction = holm(p_values[:, :3])[0], holm(p_values[:, 3:])[0]
    for found, planted in ((main, 0), (interaction, 1)):
        assert within_binomial_bounds(found[:, planted], 0.8)
        others = np.delete(found, planted, axis=1).any(axis=1)
        assert stats.binom.ppf(1e-3, NUM_GRIDS, 0.02) < others.sum() <= stats.binom.isf(1e-3, NUM_GRIDS, 0.05)
    for column in (1, 2, 3, 5):
        assert within_binomial_bounds(p_values[:, column] <= 0.05, 0.05)
    exact = family_rate(3, freedom, correlation=0.0)
    nothing = simulated_values(NUM_GRIDS, 8, seeds, key=8)
    contrasts = np.array([np.repeat(signs, 4), np.tile(np.repeat(signs, 2), 2), np.tile(signs, 4)]) / 4
    estimates = nothing.mean(axis=2) @ contrasts.T
    errors_of_nothing = pooled_tests(nothing)[1] / 2
    any_found = holm(2 * stats.t.sf(np.abs(estimates) / errors_of_nothing, freedom))[0].any(axis=1)
    assert within_binomial_bounds(any_found, exact)

    for number in range(2):
        records = [{**run, "value": value} for run, value in zip(runs, flat[number].ravel(), strict=True)]
        table = factorial_effects(tidy(records, axes="abc"), base="000").table
        np.testing.assert_allclose(table["difference"], [effect[number] for effect in effects.values()], atol=1e-12)
        np.testing.assert_allclose(table["p_value"], p_values[number], rtol=1e-8)
        np.testing.assert_array_equal(table["significant"], np.concatenate([main[number], interaction[number]]))


def test_compare_keeps_its_rate_where_runs_are_missing() -> None:
    seeds, variants = 4, 4
    values = simulated_values(NUM_GRIDS, variants, seeds, key=9)
    present = np.ones((variants, seeds), dtype=bool)
    present[0, 3] = present[1, 0] = present[1, 1] = False
    variant, seed = np.nonzero(present)
    matrix = np.concatenate([np.eye(variants)[variant], np.eye(seeds)[seed][:, 1:]], axis=1)
    observed = values[:, present].T
    parameters, squares, rank, _ = np.linalg.lstsq(matrix, observed, rcond=None)
    freedom = len(matrix) - rank
    contrasts = np.concatenate([-np.ones((3, 1)), np.eye(3), np.zeros((3, seeds - 1))], axis=1)
    unit = np.sqrt(np.diag(contrasts @ np.linalg.inv(matrix.T @ matrix) @ contrasts.T))
    errors = np.sqrt(squares / freedom)[:, None] * unit
    p_values = 2 * stats.t.sf(np.abs((contrasts @ parameters).T) / errors, freedom)
    for column in range(3):
        assert within_binomial_bounds(p_values[:, column] <= 0.05, 0.05)
    first = np.where(present, values[0], np.nan)
    comparison = compare(results_of(first), base="v0")
    np.testing.assert_allclose(comparison.table["p_value"], p_values[0], rtol=1e-8)
    np.testing.assert_allclose(comparison.table["standard_error"], errors[0], rtol=1e-8)
    assert comparison.table["num_seeds"].tolist() == [1, 3, 3]
    assert len(comparison.failures) == 3


def test_judge_agrees_with_holm_on_many_families() -> None:
    random = np.random.default_rng(10)
    for num_tests in (1, 2, 3, 8):
        differences = random.normal(scale=3.0, size=num_tests)
        errors, freedoms = random.uniform(0.5, 2.0, num_tests), random.integers(1, 30, num_tests).astype(float)
        table = judge(differences, errors, freedoms, level=0.9)
        p_values = 2 * stats.t.sf(np.abs(differences) / errors, freedoms)[None]
        rejected, judged = holm(p_values, 0.1)
        np.testing.assert_array_equal(table["significant"], rejected[0])
        np.testing.assert_allclose((table["high"] - table["low"]) / 2, errors * stats.t.isf(judged[0] / 2, freedoms))
        np.testing.assert_array_equal(table["significant"], (table["low"] > 0) | (table["high"] < 0))
