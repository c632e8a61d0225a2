"""Factorial effects: by hand, planted and recovered, against the formulas of statsmodels, and where a design ends."""

import itertools
import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as formulas

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics import Results, factorial_effects, smallest_factorial_effects, tidy_results
from gecko_lab.statistics.effects import ALL_INTERACTIONS, TWO_WAY

Cell = dict[str, str]


def factorial_records(
    levels: dict[str, Sequence[str]],
    value: Callable[[Cell], float],
    *,
    seeds: int = 3,
    noise: float = 0.01,
    keep: Callable[[Cell, int], bool] = lambda cell, seed: True,
) -> list[dict[str, object]]:
    """Records of the full product, the runs that `keep` does not keep failed."""
    random_numbers = np.random.default_rng(0)
    records: list[dict[str, object]] = []
    for names in itertools.product(*levels.values()):
        cell = dict(zip(levels, names, strict=True))
        for seed in range(seeds):
            number = value(cell) + 0.1 * seed + noise * random_numbers.normal()
            kept = number if keep(cell, seed) else math.nan
            records.append({"variant": "/".join(names), **cell, "seed": seed, "value": kept})
    return records


TWO = {"memory": ("off", "on"), "decay": ("off", "on")}
THREE = {"memory": ("off", "on"), "decay": ("off", "on"), "chunk": ("64", "128", "256")}


def planted(cell: Cell) -> float:
    """Main effects are averages over the other axes: memory −0.2 − 0.3/2 + 0.05/3, and so on."""
    memory, decay, wide = cell["memory"] == "on", cell["decay"] == "on", cell.get("chunk") == "256"
    return 3.0 - 0.2 * memory + 0.1 * decay - 0.3 * (memory and decay) + 0.05 * (memory and wide)


def grid(levels: dict[str, Sequence[str]], **options: object) -> Results:
    return tidy_results(factorial_records(levels, planted, **options), axes=list(levels))  # type: ignore[arg-type]


def differences(results: Results, base: str) -> dict[str, float]:
    table = factorial_effects(results, base=base).table
    return dict(zip(table["effect"], table["difference"], strict=True))


def test_factorial_effects_by_hand() -> None:
    # One seed effect, no noise: cells 1, 4 (decay), 2 (memory), 9 (both).
    cells = {("off", "off"): 1.0, ("off", "on"): 4.0, ("on", "off"): 2.0, ("on", "on"): 9.0}
    records = factorial_records(TWO, lambda cell: cells[cell["memory"], cell["decay"]], noise=0.0)
    effects = factorial_effects(tidy_results(records, axes=list(TWO)), base="off/off")
    table = effects.table
    assert table["effect"].tolist() == ["memory: on − off", "decay: on − off", "memory: on − off × decay: on − off"]
    assert table["kind"].tolist() == ["main", "main", "interaction"]
    assert table["difference"].tolist() == pytest.approx([(1 + 5) / 2, (3 + 7) / 2, 5 - 1])
    assert table["significant"].all()  # no noise
    assert effects.terms["p_value"].tolist() == [0, 0, 0]


def test_factorial_effects_recover_what_was_planted() -> None:
    effects = factorial_effects(grid(THREE, seeds=5), base="off/off/64")
    expected = {
        "memory: on − off": -0.2 - 0.15 + 0.05 / 3,
        "decay: on − off": 0.1 - 0.15,
        "chunk: 128 − 64": 0.0,
        "chunk: 256 − 64": 0.025,
        "memory: on − off × decay: on − off": -0.3,
        "memory: on − off × chunk: 128 − 64": 0.0,
        "memory: on − off × chunk: 256 − 64": 0.05,
        "decay: on − off × chunk: 128 − 64": 0.0,
        "decay: on − off × chunk: 256 − 64": 0.0,
    }
    table = effects.table.set_index("effect")
    assert table.index.tolist() == list(expected)
    true = pd.Series(expected)
    assert ((table["low"] <= true) & (true <= table["high"])).all()
    assert table["significant"].tolist() == [value != 0 for value in expected.values()]
    assert effects.not_estimable == {}
    assert effects.terms["term"].tolist() == [
        "memory",
        "decay",
        "chunk",
        "memory × decay",
        "memory × chunk",
        "decay × chunk",
    ]
    assert effects.terms["num_effects"].tolist() == [1, 1, 2, 1, 2, 2]
    assert ALL_INTERACTIONS in effects.assumption


def test_factorial_effects_are_those_of_effect_coding_in_statsmodels() -> None:
    """Also with runs missing: type III, every level of the other axes weighing the same."""
    lost = {("on", "on", "64", 0), ("off", "on", "256", 1), ("off", "off", "64", 2)}
    results = grid(THREE, noise=0.2, keep=lambda cell, seed: (*cell.values(), seed) not in lost)
    effects = factorial_effects(results, base="off/off/64")
    assert len(effects.failures) == 3
    coded = "C(memory, Sum) * C(decay, Sum) * C(chunk, Sum, levels=['64', '128', '256']) + C(seed)"
    fit = formulas.ols(f"value ~ {coded}", results.table).fit()
    table = effects.table.set_index("effect")
    # Sum coding gives the first level +1: a difference of two levels is −2 times the coefficient, one of differences 4.
    for name, coefficient, factor in (
        ("memory: on − off", "C(memory, Sum)[S.off]", -2),
        ("decay: on − off", "C(decay, Sum)[S.off]", -2),
        ("memory: on − off × decay: on − off", "C(memory, Sum)[S.off]:C(decay, Sum)[S.off]", 4),
    ):
        assert table.loc[name, "difference"] == pytest.approx(factor * fit.params[coefficient])
        assert table.loc[name, "standard_error"] == pytest.approx(abs(factor) * fit.bse[coefficient])
        assert table.loc[name, "p_value"] == pytest.approx(fit.pvalues[coefficient])
    chunk = [name for name in fit.params.index if name.startswith("C(chunk")]
    test = fit.f_test(np.eye(len(fit.params))[[fit.params.index.get_loc(name) for name in chunk]])
    row = effects.terms.set_index("term").loc["chunk"]
    assert row["f"] == pytest.approx(float(test.fvalue))
    assert row["p_value"] == pytest.approx(float(test.pvalue))
    assert (table["degrees_of_freedom"] == fit.df_resid).all()


def test_factorial_effects_turn_with_the_base() -> None:
    forth, back = differences(grid(TWO), "off/off"), differences(grid(TWO), "on/off")
    assert back["memory: off − on"] == pytest.approx(-forth["memory: on − off"])
    assert back["decay: on − off"] == pytest.approx(forth["decay: on − off"])
    crossed = "memory: off − on × decay: on − off"
    assert back[crossed] == pytest.approx(-forth["memory: on − off × decay: on − off"])


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (-7.0, 0.1), (10.0, 8.0)])
def test_factorial_effects_keep_under_order_shift_and_scale(shift: float, scale: float) -> None:
    records = factorial_records(TWO, planted)
    before = differences(tidy_results(records, axes=["memory", "decay"]), "off/off")
    changed = [{**record, "value": shift + scale * float(str(record["value"]))} for record in records]
    random.Random(1).shuffle(changed)
    after = differences(tidy_results(changed, axes=["decay", "memory"]), "off/off")
    for name in ("memory: on − off", "decay: on − off"):
        assert after[name] == pytest.approx(scale * before[name], abs=1e-9)
    crossed = scale * before["memory: on − off × decay: on − off"]
    assert after["decay: on − off × memory: on − off"] == pytest.approx(crossed, abs=1e-9)


def test_factorial_effects_of_one_axis_are_the_comparison() -> None:
    levels = {"chunk": THREE["chunk"]}
    results = tidy_results(factorial_records(levels, lambda cell: len(cell["chunk"])), axes=["chunk"])
    table = factorial_effects(results, base="64").table
    assert table["effect"].tolist() == ["chunk: 128 − 64", "chunk: 256 − 64"]
    by_seed = results.table.pivot_table(index="seed", columns="variant", values="value")
    np.testing.assert_allclose(table["difference"], [(by_seed[name] - by_seed["64"]).mean() for name in ("128", "256")])


def test_factorial_effects_without_a_cell_assume_no_higher_interactions_and_say_so() -> None:
    results = grid(THREE, keep=lambda cell, seed: tuple(cell.values()) != ("on", "on", "256"))
    effects = factorial_effects(results, base="off/off/64")
    assert TWO_WAY in effects.assumption
    assert effects.not_estimable == {}
    table = effects.table.set_index("effect")
    assert table.loc["memory: on − off × decay: on − off", "difference"] == pytest.approx(-0.3, abs=0.05)
    assert len(effects.failures) == 3


def test_factorial_effects_with_one_seed_measure_noise_by_higher_interactions_and_say_so() -> None:
    effects = factorial_effects(grid(THREE, seeds=1), base="off/off/64")
    assert TWO_WAY in effects.assumption
    assert (effects.table["degrees_of_freedom"] == 2).all()
    unknown = factorial_effects(grid(TWO, seeds=1), base="off/off").table
    assert unknown["p_value"].isna().all()
    assert not unknown["significant"].any()
    assert unknown["difference"].notna().all()


def test_factorial_effects_say_what_cannot_be_told() -> None:
    lacking = grid(TWO, keep=lambda cell, seed: tuple(cell.values()) != ("on", "on"))
    effects = factorial_effects(lacking, base="off/off")
    assert list(effects.not_estimable) == [
        "memory: on − off",
        "decay: on − off",
        "memory: on − off × decay: on − off",
    ]
    assert not len(effects.table)
    assert not len(effects.terms)
    # Without 128 the effects of the other levels stay.
    lacking = grid(THREE, keep=lambda cell, seed: cell["chunk"] != "128")
    effects = factorial_effects(lacking, base="off/off/64")
    assert "chunk: 128 − 64" in effects.not_estimable
    assert "memory: on − off × chunk: 128 − 64" in effects.not_estimable
    assert "chunk: 256 − 64" in effects.table["effect"].tolist()


def test_factorial_effects_of_a_large_design_around_its_base_are_refused_in_moderate_time() -> None:
    axes = [f"axis{number}" for number in range(12)]  # 4¹² cells
    base = dict.fromkeys(axes, "0")
    cells = [base, *({**base, axis: level} for axis in axes for level in "123")]
    records = [
        {"variant": "".join(cell.values()), **cell, "seed": seed, "value": float(seed)}
        for cell in cells
        for seed in range(2)
    ]
    effects = factorial_effects(tidy_results(records, axes=axes), base="0" * 12)
    assert not len(effects.table)
    assert len(effects.not_estimable) == 12 * 3 + 66 * 9


def test_smallest_factorial_effects_are_those_of_the_finished_grid() -> None:
    results = grid(THREE, seeds=3)
    effects = factorial_effects(results, base="off/off/64")
    noise = effects.table["standard_error"].iloc[0] / math.sqrt(2 / 18)
    planned = smallest_factorial_effects(THREE, paired_standard_deviation=math.sqrt(2) * noise, num_seeds=3)
    assert planned["effect"].tolist() == effects.table["effect"].tolist()
    np.testing.assert_allclose(planned["detectable"], effects.table["detectable"])
    np.testing.assert_allclose(planned["standard_error"], effects.table["standard_error"])
    unknown = smallest_factorial_effects(TWO, paired_standard_deviation=1.0, num_seeds=1)
    assert unknown["detectable"].isna().all()


@pytest.mark.parametrize(
    ("results", "base", "message"),
    [
        (tidy_results([{"variant": "a", "seed": 0, "value": 1.0, "x": "1"}], axes=["x"]), "a", "No axis.*two levels"),
        (grid(TWO), "on/of", "No variant 'on/of' in these results; did you mean on/off"),
        (grid(TWO, keep=lambda cell, seed: False), "off/off", "No run has a finite value"),
    ],
)
def test_factorial_effects_refuses_with_one_clear_message(results: Results, base: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        factorial_effects(results, base=base)


def test_smallest_factorial_effects_refuses_a_grid_without_axes() -> None:
    with pytest.raises(ConfigurationError, match="axis with two levels"):
        smallest_factorial_effects({"memory": ("on",)}, paired_standard_deviation=1.0, num_seeds=3)
