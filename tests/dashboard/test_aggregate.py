from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gecko_lab.dashboard.aggregate import LEVEL, bands, evenly
from gecko_lab.dashboard.curves import Curve, RunCurves
from gecko_lab.reports import spread


def run(**curves: dict[int, float]) -> RunCurves:
    """A run that has logged these values by step."""
    return RunCurves(
        Path("nowhere"),
        100,
        curves={name: Curve(np.array(list(c)), np.array(list(c.values()), dtype=float)) for name, c in curves.items()},
    )


@given(values=st.lists(st.floats(-10, 10).map(lambda x: round(x, 4)), min_size=2, max_size=6))
def test_bands_have_the_mean_and_its_t_interval(values: list[float]) -> None:
    band = bands([run(loss={5: value}) for value in values])["loss"]
    low, high = stats.t.interval(LEVEL, len(values) - 1, loc=np.mean(values), scale=stats.sem(values) or 1e-300)
    assert band.mean == pytest.approx(np.mean(values))
    assert band.lower == pytest.approx(low, abs=1e-9)
    assert band.upper == pytest.approx(high, abs=1e-9)
    assert band.num_seeds == [len(values)]


def test_bands_have_the_level_of_the_report() -> None:
    assert LEVEL == spread.LEVEL


def test_bands_of_one_seed_have_no_width() -> None:
    band = bands([run(loss={1: 2.0, 2: 1.5})])["loss"]
    assert list(band.mean) == list(band.lower) == list(band.upper) == [2.0, 1.5]


def test_bands_are_over_the_seeds_that_came_that_far() -> None:
    band = bands([run(loss={1: 4.0, 2: 3.0, 3: 2.0}), run(loss={1: 2.0}), run(norm={1: 1.0})])["loss"]
    assert list(band.mean) == [3.0, 3.0, 2.0]
    assert list(band.num_seeds) == [2, 1, 1]


def test_bands_have_no_point_where_a_seed_has_none() -> None:
    """Or the mean would jump between seeds that are thinned differently."""
    band = bands([run(loss={1: 4.0, 2: 3.0, 3: 2.0}), run(loss={1: 2.0, 3: 1.0})])["loss"]
    assert list(band.steps) == [1, 3]


def test_bands_of_a_seed_that_diverged_are_not_numbers() -> None:
    band = bands([run(loss={1: 4.0, 2: float("nan")}), run(loss={1: 2.0, 2: 1.0})])["loss"]
    assert band.mean[0] == 3.0
    assert np.isnan(band.mean[1])


@given(count=st.integers(1, 500), points=st.integers(2, 400))
def test_evenly_keeps_both_ends_and_no_more_than_asked(count: int, points: int) -> None:
    kept = evenly(count, points)
    assert (kept[0], kept[-1]) == (0, count - 1)
    assert len(kept) == min(count, points)
    gaps = np.diff(kept)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
