"""The noise floor: by hand, and its intervals over many simulated grids."""

import math

import numpy as np
import pytest
from scipy import stats

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics import compare, noise_floor
from tests.statistics.simulated import results_of, simulated_values, within_binomial_bounds


def test_noise_floor_by_hand() -> None:
    # Within the variants the squares sum to 2 and 8, each with two degrees of freedom; the differences are 1, 2, 3.
    floor = noise_floor(results_of(np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]])))
    assert floor.between_seeds is not None
    assert floor.paired is not None
    assert floor.between_seeds.value == pytest.approx(math.sqrt(10 / 4))
    assert floor.paired.value == floor.planning_deviation == pytest.approx(1.0)
    assert floor.paired.degrees_of_freedom == 2
    # The 2.5 % and 97.5 % points of chi-square with 2 degrees of freedom are −2 ln 0.975 and −2 ln 0.025.
    assert floor.paired.high == pytest.approx(math.sqrt(2 / (-2 * math.log(0.975))))
    assert floor.paired.low == pytest.approx(math.sqrt(2 / (-2 * math.log(0.025))))
    # Correlation 1 − 0.5 / 2.5 = 0.8: the four degrees of freedom weigh 4 / (1 + 0.8²).
    assert floor.between_seeds.degrees_of_freedom == pytest.approx(4 / 1.64)
    assert floor.by_variant["standard_deviation"].tolist() == pytest.approx([1.0, 2.0])
    assert floor.by_variant["mean"].tolist() == [2.0, 4.0]


def test_noise_floor_of_one_variant_is_its_sample_deviation() -> None:
    values = np.array([[3.1, 3.3, 3.2, 3.7]])
    floor = noise_floor(results_of(values), level=0.9)
    assert floor.between_seeds is not None
    assert floor.between_seeds.value == pytest.approx(values.std(ddof=1))
    assert floor.between_seeds.degrees_of_freedom == pytest.approx(3)
    assert floor.between_seeds.high == pytest.approx(values.std(ddof=1) * math.sqrt(3 / stats.chi2.ppf(0.05, 3)))
    assert floor.paired is None
    assert floor.planning_deviation == pytest.approx(math.sqrt(2) * values.std(ddof=1))


def test_noise_floor_with_one_seed_is_unknown() -> None:
    floor = noise_floor(results_of(np.array([[1.0], [2.0], [math.nan]])))
    assert floor.between_seeds is floor.paired is floor.planning_deviation is None
    assert floor.by_variant["num_seeds"].tolist() == [1, 1, 0]
    assert floor.by_variant["standard_deviation"].isna().all()
    nothing = noise_floor(results_of(np.full((2, 2), math.nan)))
    assert nothing.between_seeds is nothing.paired is None


def test_noise_floor_of_equal_seeds_is_zero() -> None:
    floor = noise_floor(results_of(np.array([[0.1] * 3, [0.7] * 3])))
    assert floor.between_seeds is not None
    assert floor.paired is not None
    assert [floor.paired.value, floor.paired.low, floor.paired.high] == [0, 0, 0]
    assert [floor.between_seeds.value, floor.between_seeds.low, floor.between_seeds.high] == [0, 0, 0]


def test_noise_floor_pairs_with_the_deviation_of_the_comparison() -> None:
    values = simulated_values(1, 4, 5, key=20)[0]
    values[1, 3] = values[0, 0] = math.nan
    results = results_of(values)
    floor = noise_floor(results)
    assert floor.paired is not None
    assert floor.paired.value == compare(results, base="v0").paired_standard_deviation


@pytest.mark.parametrize("block", [0.0, 2.0])
def test_noise_floor_intervals_cover(block: float) -> None:
    """Also where the seeds move all variants alike, and runs count for less than they are."""
    grids = simulated_values(300, 4, 4, key=21, block=block)
    grids[:, 2, 1] = math.nan
    floors = [noise_floor(results_of(values)) for values in grids]
    paired = np.array([f.paired.low <= math.sqrt(2) <= f.paired.high for f in floors if f.paired])
    assert len(paired) == 300
    assert within_binomial_bounds(paired, 0.95)
    deviation = math.sqrt(1 + block**2)
    between = np.array([f.between_seeds.low <= deviation <= f.between_seeds.high for f in floors if f.between_seeds])
    assert len(between) == 300
    assert within_binomial_bounds(between, 0.95)


def test_noise_floor_refuses_a_level_in_percent() -> None:
    with pytest.raises(ConfigurationError, match="level is a probability"):
        noise_floor(results_of(np.ones((2, 2))), level=95)
