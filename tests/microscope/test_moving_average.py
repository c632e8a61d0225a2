"""Half-lives, periods and powers of planted states against what they must be."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gecko_lab.components.moving_average.complex_ema import ComplexEMA
from gecko_lab.components.moving_average.damped import DampedEMA
from gecko_lab.components.moving_average.real_ema import RealEMA
from gecko_lab.microscope.moving_average import HALF_LIFE_EDGES, MovingAverageSeen, look_at_moving_average
from gecko_lab.microscope.seen import weighted_median


def plant(average: DampedEMA, half_lives: Tensor) -> None:
    """Let the states `[D, N]` halve after so many tokens."""
    forgotten = 1 - 0.5 ** (1 / half_lives.double())
    with torch.no_grad():
        average.alpha.fill_(40.0)  # p = 1
        average.delta.copy_(torch.logit(forgotten))


def look(average: DampedEMA) -> MovingAverageSeen:
    seen = look_at_moving_average(average)
    assert seen is not None
    return seen


@pytest.mark.parametrize("made", [RealEMA, ComplexEMA])
def test_half_lives_of_planted_states(made: Any) -> None:
    average = made(3, num_dims=2)
    planted = torch.tensor([[2.0, 5.0], [64.0, 1000.0], [8.0, 8.0]])
    plant(average, planted)
    torch.testing.assert_close(look(average).half_lives, planted.double(), rtol=1e-4, atol=0)
    metrics = look(average).metrics()
    for name, value in (("min", 2.0), ("median", 8.0), ("max", 1000.0)):
        assert metrics[f"half_life_{name}"] == pytest.approx(value, rel=1e-4)
    assert ("period_min" in metrics) == (made is ComplexEMA)


def test_periods_of_planted_angles() -> None:
    average = ComplexEMA(2, num_dims=2)
    with torch.no_grad():
        average.theta.copy_(torch.logit(torch.tensor([0.25, 0.125])))
    # φ_n = n π σ(θ): π/4, π/2 and π/8, π/4 radians a token
    expected = torch.tensor([[8.0, 4.0], [16.0, 8.0]], dtype=torch.float64)
    periods = look(average).periods
    assert periods is not None
    torch.testing.assert_close(periods, expected, rtol=1e-5, atol=0)
    with torch.no_grad():
        average.theta.copy_(torch.logit(torch.tensor([0.75, 0.75])))
    # 3π/4, and 3π/2, which is a turn of π/2 the other way
    periods = look(average).periods
    assert periods is not None
    torch.testing.assert_close(periods[0], torch.tensor([8 / 3, 4.0], dtype=torch.float64), rtol=1e-5, atol=0)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("made", [RealEMA, ComplexEMA])
def test_power_is_the_energy_of_the_impulse_response(made: Any, scaled: bool) -> None:
    torch.manual_seed(0)
    average = made(3, num_dims=4, scaled=scaled)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter += 0.5 * torch.randn(parameter.shape)
    impulse = torch.zeros(1, 400, 3)
    impulse[:, 0] = 1.0
    gamma = average.gamma.detach().clone()
    energies = []
    with torch.no_grad():
        for n in range(4):
            average.gamma.zero_()
            average.gamma[:, n] = gamma[:, n]
            energies.append((average(impulse)[0] - impulse)[0].square().sum(dim=0))
        average.gamma.copy_(gamma)
    torch.testing.assert_close(look(average).spectrum.power, torch.stack(energies, dim=1), rtol=1e-3, atol=1e-6)


def test_weighted_median_halves_the_power_of_the_output() -> None:
    average = RealEMA(1, num_dims=3)
    plant(average, torch.tensor([[4.0, 16.0, 256.0]]))
    with torch.no_grad():
        average.gamma.copy_(torch.tensor([[[1e-3], [1.0], [1e-3]]]))
    assert look(average).metrics()["half_life_weighted_median"] == pytest.approx(16.0, rel=1e-3)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 5)), min_size=1, max_size=12))
def test_weighted_median_is_the_median_of_repeated_values(pairs: list[tuple[int, int]]) -> None:
    values, weights = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    repeated = sorted(value for value, weight in pairs for _ in range(weight))
    assert weighted_median(values, weights) == repeated[(len(repeated) - 1) // 2]


@given(st.lists(st.floats(0.01, 1e8), min_size=1, max_size=20))
def test_histogram_counts_every_state_in_its_bin(half_lives: list[float]) -> None:
    average = RealEMA(len(half_lives), num_dims=1)
    plant(average, torch.tensor(half_lives)[:, None])
    seen = look(average)
    bins = seen.histogram()
    assert sum(bins) == pytest.approx(1.0)
    power = seen.spectrum.power.double() / seen.spectrum.power.double().sum()
    expected = [0.0] * (len(HALF_LIFE_EDGES) - 1)
    for half_life, share in zip(seen.half_lives.flatten().tolist(), power.flatten().tolist(), strict=True):
        place = math.floor(math.log2(half_life)) + 2 if half_life > 0 else 0
        expected[min(max(place, 0), len(expected) - 1)] += share
    assert bins == pytest.approx(expected, abs=1e-9)


def test_findings_name_the_states_that_never_forget() -> None:
    average = ComplexEMA(4, num_dims=3)
    assert look(average).findings() == []
    with torch.no_grad():
        average.delta[1, 2] = -12.0  # σ = 6e-6, p = 1/2: 3e-6 are forgotten
        average.alpha[1, 2] = 0.0
    assert look(average).findings() == []
    with torch.no_grad():
        average.delta[1, 2] = -16.0
        average.delta[3, 0] = -40.0
    (finding,) = look(average).findings()
    assert "|q| > 1 − 1e-06 in 2 of 12 states" in finding.reason
    assert finding.patience == 1
    assert math.isfinite(sum(look(average).histogram()))
