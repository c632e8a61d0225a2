"""Budgets: what they say, and how many steps they pay for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.budget import Budget, read_budget, steps_of


@pytest.mark.parametrize(
    ("text", "number", "unit"),
    [
        ("50M tokens", 5e7, "tokens"),
        ("1e17 FLOPs", 1e17, "FLOPs"),
        ("2.5e15 flop", 2.5e15, "FLOPs"),
        ("1e+17 FLOPs", 1e17, "FLOPs"),
        ("2 hours", 120, "minutes"),
        ("10 minutes", 10, "minutes"),
        ("1000 steps", 1000, "steps"),
        (300, 300, "steps"),
    ],
)
def test_read_budget(text: str | int, number: float, unit: str) -> None:
    budget = read_budget(text, "grid.budget")
    assert (budget.number, budget.unit, budget.text) == (number, unit, str(text))


@pytest.mark.parametrize("text", ["50M", "lots", "0 tokens", "-3 hours", "0 FLOPs", True, [1], 0])
def test_read_budget_refuses(text: object) -> None:
    with pytest.raises(ConfigurationError, match=r"^grid\.budget"):
        read_budget(text, "grid.budget")


@given(st.integers(1, 10**12), st.integers(1, 10**7))
def test_steps_of_tokens_read_them_all_and_no_step_more(tokens: int, per_step: int) -> None:
    steps = steps_of(Budget(tokens, "tokens", ""), tokens_per_step=per_step, flops_per_token=1.0)
    assert steps * per_step >= tokens > (steps - 1) * per_step


@given(st.floats(1e3, 1e20), st.integers(1, 10**6), st.floats(1e2, 1e10))
def test_steps_of_flops_are_the_nearest_number_and_at_least_one(flops: float, per_step: int, forward: float) -> None:
    steps = steps_of(Budget(flops, "FLOPs", ""), tokens_per_step=per_step, flops_per_token=forward)
    of_step = 3 * forward * per_step
    assert steps == 1 or abs(steps * of_step - flops) <= of_step / 2 + 1e-9 * flops


@given(st.floats(0.1, 1e4), st.floats(1e-3, 1e3))
def test_steps_of_a_time_end_within_it(minutes: float, seconds: float) -> None:
    budget = Budget(minutes, "minutes", "")
    steps = steps_of(budget, tokens_per_step=1, flops_per_token=1.0, seconds_per_step=seconds)
    assert steps == max(1, math.floor(minutes * 60 / seconds))


def test_steps_of_a_time_need_a_speed() -> None:
    with pytest.raises(ConfigurationError, match="leave out --no_trial"):
        steps_of(read_budget("2 hours", "grid.budget"), tokens_per_step=1, flops_per_token=1.0)
