"""The spike score against its definition."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.callbacks.spike_score import SpikeScore

WINDOW, LEAST = 30, 3


def definition(series: list[float], threshold: float) -> float:
    """Percentage of values at least `threshold` deviations away from the average of the window before them."""
    spikes = 0
    for i in range(LEAST, len(series)):
        before = np.array(series[max(0, i - WINDOW) : i])
        spikes += before.std() > 0 and abs(series[i] - before.mean()) >= threshold * before.std()
    return 100 * spikes / len(series)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=100),
    st.floats(0.5, 7.0),
    st.integers(0, 100),
)
def test_spike_score_is_its_definition_also_across_a_checkpoint(
    series: list[float], threshold: float, split: int
) -> None:
    first, second = SpikeScore(WINDOW, threshold), SpikeScore(WINDOW, threshold)
    for value in series[:split]:
        first.add(value)
    second.load_state_dict(first.state_dict())
    for value in series[split:]:
        second.add(value)
    assert second.percent == definition(series, threshold)


def test_spike_score_of_noise_with_a_spike() -> None:
    score = SpikeScore()
    series = np.random.default_rng(0).normal(3.0, 0.1, 2000)
    series[[50, 1500]] += 1.0  # ten deviations; the first comes before anything is judged
    for value in series:
        score.add(value)
    assert score.percent == 100 / 2000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_spike_score_leaves_out_what_is_not_finite(value: float) -> None:
    score = SpikeScore(WINDOW)
    for number in (1.0, 2.0, value, 1.5, 100.0):
        score.add(number)
    assert score.percent == 25
    assert score.state_dict()["last"] == [1.0, 2.0, 1.5, 100.0]
