"""Curves over seeds."""

from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.reports.curves import over_seeds, thinned
from gecko_lab.reports.figures import Curve, curves
from gecko_lab.reports.run_data import RunData
from gecko_lab.reports.svg import svg_of


def run(steps: list[float], values: list[float]) -> RunData:
    return RunData(Path("x"), 0, "finished", metrics=pd.DataFrame({"step": steps, "loss/train": values}))


@given(length=st.integers(1, 2000), most=st.integers(2, 400))
def test_thinned_keeps_ends_order_and_mean(length: int, most: int) -> None:
    values = np.random.default_rng(length).normal(size=(length, 2))
    table = pd.DataFrame(values, index=np.arange(length, dtype=float))
    thin = thinned(table, most)
    assert len(thin) == min(length, most)
    assert thin.index[-1] == length - 1
    np.testing.assert_array_equal(thin.iloc[-1], values[-1])
    assert thin.index.is_monotonic_increasing
    assert (thin.min() >= table.min()).all()
    assert (thin.max() <= table.max()).all()
    if length > most and (length - 1) % (most - 1) == 0:  # bins of one size
        np.testing.assert_allclose(thin.iloc[:-1].mean(), values[:-1].mean(axis=0), atol=1e-12)


def test_over_seeds_takes_the_steps_that_all_have() -> None:
    table = over_seeds([run([1, 2, 3, 3], [1, 2, 0, 3]), run([2, 3, 4], [4, 5, 9])], "loss/train")
    assert table is not None
    assert table.to_dict("list") == {"step": [2, 3], "mean": [3, 4], "low": [2, 3], "high": [4, 5]}
    assert over_seeds([run([1], [1]), run([2], [1])], "loss/train") is None
    assert over_seeds([], "loss/train") is None


def test_training_clock_adds_up_tokens_over_speed() -> None:
    metrics = pd.DataFrame(
        {"step": [1.0, 2.0, 4.0], "tokens": [36.0, 72.0, 144.0], "tokens_per_second": [np.nan, 0.01, 0.02]}
    )
    clock = RunData(Path("x"), 0, "finished", metrics=metrics).training_clock
    assert clock is not None
    np.testing.assert_allclose(clock[0], [0, 1, 2, 4])
    np.testing.assert_allclose(clock[1], [0, 1, 2, 3])


def test_of_many_curves_the_extremes_are_named() -> None:
    x = np.linspace(0, 1, 5)
    lines = [Curve(f"v{i}", x, x + i, x + i, x + i, i == 7) for i in range(20)]
    figure = curves(name="f", title="t", curves=lines, x_label="x", y_label="y")
    svg = svg_of(figure)
    for name in ("v0", "v1", "v2", "v3", "v7", "v16", "v17", "v18", "v19"):
        assert f">{name}</text>" in svg
    assert ">v10</text>" not in svg
    assert "Of 20 variants 9 are named" in figure.note
