from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.data.synthetic.draws import Draws, power_law

SEEDS = st.integers(0, 2**32 - 1)
INDICES = st.integers(0, 2**63 - 1)


@given(SEEDS, INDICES, st.integers(1, 2**53), st.integers(0, 50))
def test_integers_lie_below_the_bound_and_depend_on_seed_and_index(
    seed: int, index: int, bound: int, count: int
) -> None:
    drawn = Draws(seed, index).integers(bound, count)
    assert drawn.dtype == np.int64
    assert drawn.shape == (count,)
    assert all(0 <= value < bound for value in drawn.tolist())
    assert drawn.tolist() == [draws.integer(bound) for draws in [Draws(seed, index)] for _ in range(count)]


def test_integers_never_change() -> None:
    """A run that was begun must go on as it began, whatever was installed since."""
    assert Draws(0, 0).integers(1000, 6).tolist() == [636, 269, 40, 16, 813, 912]
    assert Draws(7, 1 << 61).integers(np.array([10, 1000, 2**53]), 3).tolist() == [4, 691, 541707621226034]
    assert Draws(3, 4).distinct(20, 6).tolist() == [17, 9, 2, 10, 14, 3]
    assert Draws(3, 4).distinct_weighted(power_law(50, -0.99), 6).tolist() == [31, 3, 0, 5, 13, 19]
    law = [750599937895082, 1128510324562922, 1381474185955449, 1571743666595080, 1724299289613621, 1851660971710112]
    assert power_law(6, -0.99).tolist() == law


def test_streams_of_other_seeds_and_indices_differ() -> None:
    names = [(0, 0), (0, 1), (1, 0), (0, 2**32), (1, 2**32), (0, 2**61), (0, 2**62), (2**32 - 1, 0)]
    first = {tuple(Draws(*name).integers(2**53, 2).tolist()) for name in names}
    assert len(first) == len(names)


@given(SEEDS, st.integers(1, 60), st.data())
def test_distinct_draws_each_at_most_once(seed: int, bound: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, bound))
    weights = data.draw(st.lists(st.integers(1, 1000), min_size=bound, max_size=bound))
    for drawn in (Draws(seed, 0).distinct(bound, count), Draws(seed, 0).distinct_weighted(np.cumsum(weights), count)):
        assert len(set(drawn.tolist())) == len(drawn) == count
        assert all(0 <= value < bound for value in drawn.tolist())


@pytest.mark.parametrize("weights", [[1, 1, 1], [6, 3, 1]])
def test_distinct_weighted_draws_one_after_another_in_proportion(weights: list[int]) -> None:
    number = 6000
    counts = Counter(
        tuple(Draws(0, index).distinct_weighted(np.cumsum(weights), 2).tolist()) for index in range(number)
    )
    for first, second in itertools.permutations(range(3), 2):
        expected = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
        deviation = (expected * (1 - expected) / number) ** 0.5
        assert counts[first, second] / number == pytest.approx(expected, abs=5 * deviation), (first, second)


@pytest.mark.parametrize("exponent", [-0.99, -0.5, 0.0, 1.0])
@pytest.mark.parametrize("bound", [1, 2, 192, 5000])
def test_power_law_has_weights_of_the_power(bound: int, exponent: float) -> None:
    cumulative = power_law(bound, exponent)
    weights = np.diff(cumulative, prepend=0)
    assert cumulative[-1] <= 2**53
    expected = np.arange(1, bound + 1) ** exponent
    np.testing.assert_allclose(weights / cumulative[-1], expected / expected.sum(), rtol=1e-7)
