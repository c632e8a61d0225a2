"""The table of results: what is in it, what is left out, what is refused."""

import math
import random

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics import tidy_results


def record(variant: str = "base", seed: object = 0, value: object = 1.0, **levels: object) -> dict[str, object]:
    return {"variant": variant, "seed": seed, "value": value, **levels}


def test_tidy_results_is_one_row_a_run_in_the_order_of_the_variants() -> None:
    results = tidy_results(
        [
            record("two", 1, 2.5, capacity=2, epochs=9),
            record("none", 3, 3, capacity=0),
            record("two", 0, 2.0, capacity=2),
        ],
        axes=["capacity"],
    )
    assert list(results.table.columns) == ["variant", "capacity", "seed", "value"]
    assert results.table.to_numpy().tolist() == [["two", "2", 0, 2.0], ["two", "2", 1, 2.5], ["none", "0", 3, 3.0]]
    assert results.table["seed"].dtype.kind == "i"
    assert results.table["value"].dtype.kind == "f"
    assert results.variants == ("two", "none")
    assert results.levels == {"capacity": ("2", "0")}
    assert results.seeds == (0, 1, 3)
    assert results.missing == (("two", 3), ("none", 0), ("none", 1))
    assert results.finished_seeds("two") == (0, 1)


def test_tidy_results_leaves_out_and_reports_what_failed() -> None:
    values = [None, math.nan, math.inf, -math.inf, 1.0]
    results = tidy_results([record(seed=seed, value=value) for seed, value in enumerate(values)])
    assert results.table["seed"].tolist() == [4]
    assert results.failures["seed"].tolist() == [0, 1, 2, 3]
    assert results.failures["reason"].tolist() == ["no value", "nan", "inf", "-inf"]
    assert results.missing == ()


@given(st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_tidy_results_has_the_same_rows_in_any_order_of_records(shuffled: random.Random) -> None:
    records = [record(v, s, s / 7 if s else None, a=v[0]) for v in ("x1", "y1", "y2") for s in range(3)]
    first = tidy_results(records, axes=["a"])
    shuffled.shuffle(records)
    second = tidy_results(records, axes=["a"])
    for before, after in ((first.table, second.table), (first.failures, second.failures)):
        pd.testing.assert_frame_equal(
            before.sort_values(["variant", "seed"], ignore_index=True),
            after.sort_values(["variant", "seed"], ignore_index=True),
        )


@pytest.mark.parametrize(
    ("records", "axes", "message"),
    [
        ([], [], "no record"),
        ([record(seed=1), record("other", 1), record(seed=1)], [], "'base' has more than one result for seed 1"),
        ([record(seed=1), record(seed=1, value=None)], [], "more than one result for seed 1"),
        ([{"variant": "base", "seed": 0}], [], "record 0 has no 'value'"),
        ([record()], ["chunk"], "record 0 has no 'chunk'"),
        ([record(seed=1.5)], [], "seed that is no integer: 1.5"),
        ([record(value="low")], [], "value that is no number: 'low'"),
        ([record()], ["seed"], "axis cannot be called 'seed'"),
        ([record(a=1)], ["a", "a"], "axis cannot be called 'a'"),
        ([record(a=1), record(seed=1, a=2)], ["a"], r"'base' has several levels on the axis 'a' \(1, 2\)"),
    ],
)
def test_tidy_results_refuses_with_one_clear_message(
    records: list[dict[str, object]], axes: list[str], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        tidy_results(records, axes=axes)
