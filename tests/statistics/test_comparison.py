"""Comparisons with the base: by hand, against the libraries' own tests, and the laws they keep."""

import math
import random
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formulas
from scipy import stats

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics import Comparison, compare, tidy_results
from gecko_lab.statistics.planning import Variance
from tests.statistics.simulated import results_of

BOTH: tuple[Variance, ...] = ("pooled", "separate")
VALUES = np.random.default_rng(0).normal(3.0, 0.1, size=(4, 5)) - np.array([[0.0], [0.02], [0.5], [-0.3]])
NUMBERS = ["difference", "standard_error", "p_value", "adjusted_p_value", "low", "high", "detectable"]


def test_compare_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard deviation 1, standard error 1/√3, t = 2√3 with 2 degrees of freedom.
    results = results_of(np.array([[1.0, 1.0, 1.0], [2.0, 3.0, 4.0]]))
    for variance in BOTH:  # with one variant both are the paired t test
        row = compare(results, base="v0", variance=variance).table.iloc[0]
        assert (row["difference"], row["mean_of_pairs"]) == pytest.approx((2, 2))
        assert row["standard_error"] == pytest.approx(1 / 3**0.5)
        assert row["degrees_of_freedom"] == 2
        # With 2 degrees of freedom P(|t| > x) = 1 − x / √(x² + 2).
        assert row["p_value"] == row["adjusted_p_value"] == pytest.approx(1 - math.sqrt(12 / 14))
        assert row["high"] == row["individual_high"] == pytest.approx(2 + 4.302653 / 3**0.5, rel=1e-6)
        assert not row["significant"]


def test_compare_pooled_is_the_analysis_of_variance_of_statsmodels() -> None:
    values = VALUES.copy()
    values[1, 2] = values[0, 4] = math.nan
    results = results_of(values)
    fit = formulas.ols("value ~ C(variant, Treatment('v0')) + C(seed)", results.table).fit()
    table = compare(results, base="v0").table
    names = [f"C(variant, Treatment('v0'))[T.v{number}]" for number in (1, 2, 3)]
    np.testing.assert_allclose(table["difference"], fit.params[names])
    np.testing.assert_allclose(table["standard_error"], fit.bse[names])
    np.testing.assert_allclose(table["p_value"], fit.pvalues[names])
    np.testing.assert_allclose(table[["individual_low", "individual_high"]], fit.conf_int().loc[names])
    assert (table["degrees_of_freedom"] == fit.df_resid).all()
    np.testing.assert_allclose(table["mean_of_pairs"], np.nanmean(values[1:] - values[0], axis=1))


def test_compare_separate_is_the_paired_t_test_of_scipy() -> None:
    values = VALUES.copy()
    values[1, 2] = values[0, 4] = math.nan
    table = compare(results_of(values), base="v0", variance="separate").table
    for row, variant in zip(table.to_dict("records"), values[1:], strict=True):
        test = stats.ttest_rel(variant, values[0], nan_policy="omit")
        interval = test.confidence_interval(0.95)
        assert row["p_value"] == pytest.approx(test.pvalue)
        assert row["degrees_of_freedom"] == test.df
        assert (row["individual_low"], row["individual_high"]) == pytest.approx((interval.low, interval.high))
    adjusted = np.sort(table["p_value"]) * [3, 2, 1]
    np.testing.assert_allclose(np.sort(table["adjusted_p_value"]), np.minimum(np.maximum.accumulate(adjusted), 1))


@pytest.mark.parametrize("variance", BOTH)
def test_compare_intervals_agree_with_verdicts_and_corrections_are_ordered(variance: Variance) -> None:
    holm = compare(results_of(VALUES), base="v0", variance=variance).table
    bonferroni = compare(results_of(VALUES), base="v0", variance=variance, correction="bonferroni").table
    for table in (holm, bonferroni):
        assert ((table["low"] > 0) | (table["high"] < 0)).tolist() == table["significant"].tolist()
        assert (table["adjusted_p_value"] <= 0.05).tolist() == table["significant"].tolist()
        assert (table["low"] <= table["individual_low"] + 1e-12).all()
    assert holm["significant"].sum() == 2  # or the law is not tried
    assert (holm["low"] >= bonferroni["low"] - 1e-12).all()
    assert (holm["adjusted_p_value"] <= bonferroni["adjusted_p_value"]).all()
    np.testing.assert_allclose(bonferroni["adjusted_p_value"], np.minimum(3 * holm["p_value"], 1))


def numbers(comparison: Comparison) -> pd.DataFrame:
    return comparison.table.set_index("variant")[[*NUMBERS, "significant", "num_seeds"]].sort_index().astype(float)


LAWS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[pd.DataFrame], pd.DataFrame]]] = {
    "shift": (lambda values: values + 17.0, lambda table: table),
    "seeds that shift all variants": (lambda values: values + np.arange(5.0) ** 2, lambda table: table),
    "scale": (
        lambda values: 1000 * values,
        lambda table: table.assign(
            **{name: 1000 * table[name] for name in NUMBERS if name not in ("p_value", "adjusted_p_value")}
        ),
    ),
    "sign": (
        lambda values: -values,
        lambda table: table.assign(difference=-table["difference"], low=-table["high"], high=-table["low"]),
    ),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("variance", BOTH)
def test_compare_moves_with_the_values(law: str, variance: Variance) -> None:
    values = VALUES.copy()
    values[2, 1] = math.nan
    change, expected = LAWS[law]
    before = numbers(compare(results_of(values), base="v0", variance=variance))
    after = numbers(compare(results_of(change(values)), base="v0", variance=variance))
    pd.testing.assert_frame_equal(after, expected(before), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("variance", BOTH)
def test_compare_does_not_depend_on_the_order_of_rows_to_the_last_bit(variance: Variance) -> None:
    records = [
        {"variant": f"v{v}", "seed": s, "value": VALUES[v, s] if (v, s) != (2, 3) else None}
        for v in range(4)
        for s in range(5)
    ]
    before = numbers(compare(tidy_results(records), base="v1", variance=variance))
    for key in range(4):
        random.Random(key).shuffle(records)
        after = numbers(compare(tidy_results(records), base="v1", variance=variance))
        pd.testing.assert_frame_equal(after, before, check_exact=True)


@pytest.mark.parametrize("names", [(0, 1, 3, 2), (3, 2, 1, 0), (1, 2, 3, 0)])
def test_compare_does_not_depend_on_names(names: tuple[int, ...]) -> None:
    values = VALUES.copy()
    values[3] = values[2]  # a tie of two significant variants
    before = numbers(compare(results_of(values), base="v0"))
    records = [{"variant": f"w{names[v]}", "seed": 10 - s, "value": value} for (v, s), value in np.ndenumerate(values)]
    after = numbers(compare(tidy_results(records), base=f"w{names[0]}"))
    after = after.loc[[f"w{names[v]}" for v in (1, 2, 3)]].set_axis(["v1", "v2", "v3"])
    pd.testing.assert_frame_equal(after, before, check_names=False, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("variance", BOTH)
def test_compare_with_one_seed_says_that_the_noise_is_unknown(variance: Variance) -> None:
    comparison = compare(results_of(VALUES[:, :1]), base="v0", variance=variance)
    table = comparison.table
    np.testing.assert_allclose(table["difference"], VALUES[1:, 0] - VALUES[0, 0])
    assert table[[name for name in NUMBERS if name != "difference"]].isna().all(axis=None)
    assert not table["significant"].any()
    assert any("unknown" in caution for caution in comparison.cautions)


def test_compare_pooled_judges_a_variant_with_one_seed_and_separate_does_not() -> None:
    values = VALUES.copy()
    values[2, 1:] = math.nan
    pooled = compare(results_of(values), base="v0").table.set_index("variant")
    assert pooled.loc["v2", "significant"]
    separate = compare(results_of(values), base="v0", variance="separate").table.set_index("variant")
    assert math.isnan(separate.loc["v2", "p_value"])
    # The family has the two variants that are tested.
    assert separate.loc["v1", "adjusted_p_value"] <= 2 * separate.loc["v1", "p_value"]


@pytest.mark.parametrize("variance", BOTH)
@pytest.mark.parametrize("blocks", [np.zeros(3), np.array([0.1, -0.7, 0.4])], ids=["equal seeds", "common shifts"])
def test_compare_without_noise(variance: Variance, blocks: np.ndarray) -> None:
    values = np.array([[3.3], [3.1], [3.3]]) + blocks
    comparison = compare(results_of(values), base="v0", variance=variance)
    lower, same = comparison.table.to_dict("records")
    assert lower["difference"] == pytest.approx(-0.2)
    assert (lower["p_value"], lower["significant"]) == (0, True)
    assert lower["low"] == lower["high"] == lower["difference"]
    assert (same["difference"], same["p_value"], same["significant"]) == (0, 1, False)
    assert comparison.paired_standard_deviation == 0
    assert any("seeds change nothing" in caution for caution in comparison.cautions)


def test_compare_of_all_equal_values_finds_nothing() -> None:
    table = compare(results_of(np.full((3, 4), 0.1)), base="v0").table
    assert (table[["difference", "standard_error", "low", "high", "detectable"]] == 0).all(axis=None)
    assert (table[["p_value", "adjusted_p_value"]] == 1).all(axis=None)


def test_compare_says_what_it_could_not_compare() -> None:
    values = VALUES.copy()
    values[1] = math.nan
    values[0, 4] = math.nan
    values[2, :4] = math.inf
    comparison = compare(results_of(values), base="v0")
    assert comparison.table["variant"].tolist() == ["v3"]
    assert comparison.not_compared == {"v1": "no run has a finite value", "v2": "no seed in common with v0"}
    assert len(comparison.failures) == 10
    assert comparison.cautions[0].startswith("10 runs")


def test_compare_cautions_where_one_variant_is_much_noisier() -> None:
    values = np.random.default_rng(4).normal(size=(6, 5))
    assert compare(results_of(values), base="v0").cautions == ()
    values[3] *= 20
    noisy = compare(results_of(values), base="v0")
    assert noisy.unequal_noise_p_value < 1e-3
    assert any("Bartlett" in caution for caution in noisy.cautions)
    assert compare(results_of(values), base="v0", variance="separate").cautions == ()


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (VALUES, {"base": "v9"}, "No variant 'v9'.*v0"),
        (VALUES[:1], {"base": "v0"}, "nothing to compare"),
        (np.full((2, 2), math.nan), {"base": "v0"}, "No run of the variant 'v0'"),
        (np.array([[1.0, math.nan], [math.nan, 1.0]]), {"base": "v0"}, "nothing is paired"),
        (VALUES, {"base": "v0", "level": 95}, "level is a probability"),
        (VALUES, {"base": "v0", "power": 0.0}, "power is a probability"),
        (VALUES, {"base": "v0", "variance": "welch"}, "variance is one of pooled, separate"),
        (VALUES, {"base": "v0", "correction": "none"}, "correction is one of holm, bonferroni"),
    ],
)
def test_compare_refuses_with_one_clear_message(values: np.ndarray, options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        compare(results_of(values), **options)  # type: ignore[arg-type]
