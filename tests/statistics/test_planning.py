"""Power before launch: against quadrature, its inverses, its order; against simulated grids in `test_simulation.py`."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics import power, seeds_needed, smallest_effect
from gecko_lab.statistics.planning import Variance, shift_power, smallest_shift

VARIANCES = st.sampled_from(["pooled", "separate"])


@pytest.mark.parametrize("freedom", [1, 2, 8, 60])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 15])
def test_shift_power_is_the_integral_over_the_noise(freedom: int, alpha: float) -> None:
    bound = stats.t.isf(alpha / 2, freedom)
    for shift in (0.0, 1.0, 3.0, 8.0, 40.0):

        def rejected(noise: float, shift: float = shift) -> float:
            return float(stats.norm.sf(bound * noise / math.sqrt(freedom) - shift) * stats.chi.pdf(noise, freedom))

        edge = shift * math.sqrt(freedom) / bound
        exact = integrate.quad(rejected, 0, 60, points=sorted({edge, math.sqrt(freedom)}), limit=200)[0]
        assert shift_power(shift, degrees_of_freedom=freedom, alpha=alpha) == pytest.approx(exact, abs=1e-6)


@given(st.integers(1, 200), st.floats(1e-4, 0.2), st.floats(0.3, 0.99))
@settings(max_examples=50, deadline=None)
def test_smallest_shift_is_found_with_the_power_asked_for(freedom: int, alpha: float, wanted: float) -> None:
    shift = smallest_shift(degrees_of_freedom=freedom, alpha=alpha, power=wanted)
    assert shift_power(shift, degrees_of_freedom=freedom, alpha=alpha) == pytest.approx(wanted, abs=1e-8)


@given(st.floats(1e-6, 1e3), st.integers(2, 12), st.integers(1, 12), st.floats(0.5, 0.99), VARIANCES)
@settings(max_examples=30, deadline=None)
def test_power_smallest_effect_and_seeds_needed_are_inverses(
    deviation: float, seeds: int, comparisons: int, wanted: float, variance: Variance
) -> None:
    plan: dict[str, Any] = {
        "paired_standard_deviation": deviation,
        "num_comparisons": comparisons,
        "variance": variance,
    }
    effect = smallest_effect(num_seeds=seeds, power=wanted, **plan)
    assert effect is not None
    assert power(-effect, num_seeds=seeds, **plan) == pytest.approx(wanted, abs=1e-8)
    assert seeds_needed(effect * (1 + 1e-9), power=wanted, **plan) == seeds
    more = seeds_needed(effect * (1 - 1e-6), power=wanted, **plan)
    assert more == seeds + 1


def test_smallest_effect_falls_with_seeds_and_grows_with_variants_at_the_same_freedom() -> None:
    effects = [smallest_effect(paired_standard_deviation=1, num_seeds=s, num_comparisons=4) for s in range(2, 12)]
    assert effects == sorted(effects, key=lambda effect: -(effect or 0))
    separate = [
        smallest_effect(paired_standard_deviation=1, num_seeds=4, num_comparisons=c, variance="separate")
        for c in range(1, 9)
    ]
    assert separate == sorted(separate, key=lambda effect: effect or 0)
    assert len(set(separate)) == 8


def test_smallest_effect_approaches_the_normal_formula_with_many_seeds() -> None:
    effect = smallest_effect(paired_standard_deviation=0.01, num_seeds=10_000, num_comparisons=1)
    normal = 0.01 / 100 * (stats.norm.isf(0.025) + stats.norm.isf(0.2))
    assert effect == pytest.approx(normal, rel=1e-3)


def test_planning_with_one_seed_is_unknown_and_without_noise_is_certain() -> None:
    plan: dict[str, Any] = {"num_seeds": 1, "num_comparisons": 3}
    assert smallest_effect(paired_standard_deviation=0.1, **plan) is None
    assert power(1.0, paired_standard_deviation=0.1, **plan) is None
    exact: dict[str, Any] = {"paired_standard_deviation": 0.0, "num_comparisons": 3}
    assert smallest_effect(num_seeds=2, **exact) == 0
    assert power(1e-9, num_seeds=2, **exact) == 1
    assert power(0.0, num_seeds=2, **exact) == pytest.approx(0.05 / 6)
    assert seeds_needed(1e-9, **exact) == 2


def test_seeds_needed_gives_up_at_its_limit() -> None:
    assert seeds_needed(1e-6, paired_standard_deviation=1.0, num_comparisons=1, max_seeds=50) is None
    needed = seeds_needed(1.0, paired_standard_deviation=1.0, num_comparisons=1)
    assert needed == 10  # the textbook's n for d = 1, α = 5 %, power 80 % in a paired test
    assert seeds_needed(1.0, paired_standard_deviation=1.0, num_comparisons=1, max_seeds=needed) == needed
    assert seeds_needed(1.0, paired_standard_deviation=1.0, num_comparisons=1, max_seeds=needed - 1) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paired_standard_deviation": -1.0}, "finite number of at least 0"),
        ({"paired_standard_deviation": np.nan}, "finite number of at least 0"),
        ({"num_seeds": 0}, "at least one seed"),
        ({"num_comparisons": 0}, "one variant beside the base"),
        ({"level": 95.0}, "level is a probability"),
        ({"power": 1.0}, "power is a probability"),
        ({"variance": "welch"}, "variance is one of pooled, separate"),
    ],
)
def test_smallest_effect_refuses_with_one_clear_message(options: dict[str, Any], message: str) -> None:
    plan: dict[str, Any] = {"paired_standard_deviation": 0.01, "num_seeds": 3, "num_comparisons": 2}
    with pytest.raises(ConfigurationError, match=message):
        smallest_effect(**{**plan, **options})


def test_seeds_needed_refuses_an_effect_of_zero() -> None:
    with pytest.raises(ConfigurationError, match="effect of 0"):
        seeds_needed(0, paired_standard_deviation=1.0, num_comparisons=1)
