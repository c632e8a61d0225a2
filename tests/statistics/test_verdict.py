"""Verdicts in words, whose numbers say the same as the test."""

import math
import re

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gecko_lab.statistics import compare, comparison_verdicts, effect_verdicts, factorial_effects, tidy_results
from gecko_lab.statistics.verdict import rounded
from tests.statistics.simulated import results_of

PAIR = np.array([[1.0, 1.0, 1.0], [0.9, 0.8, 0.7]])


@pytest.mark.parametrize(
    ("difference", "half", "significant", "text"),
    [
        (0.0123, 0.0042, True, "0.0123 ± 0.0042"),
        (-0.003, 0.0061, False, "−0.0030 ± 0.0061"),
        (0.01204, 0.01198, True, "0.01204 ± 0.01198"),  # two digits would say 0.012 ± 0.012
        (0.01198, 0.01204, False, "0.012 ± 0.012"),
        (1.0, 0.0996, True, "1.00 ± 0.10"),
        (12347.0, 678.0, True, "12350 ± 680"),
        (-0.00001, 0.5, False, "0.00 ± 0.50"),
        (1.234e-6, 5.6e-7, True, "(1.23 ± 0.56) × 10⁻⁶"),
        (2.5e8, 1.2e7, True, "(2.50 ± 0.12) × 10⁸"),
    ],
)
def test_rounded(difference: float, half: float, significant: bool, text: str) -> None:
    assert rounded(difference, half, significant=significant) == text


@given(st.floats(1e-12, 1e12), st.floats(1e-12, 1e12), st.booleans())
@example(1.0000000001, 1.0, False)
@example(9.99e-5, 9.98e-5, False)
def test_rounded_reads_as_the_verdict(difference: float, half: float, negative: bool) -> None:
    assume(difference == half or abs(difference / half - 1) > 1e-11)
    significant = difference > half
    text = rounded(-difference if negative else difference, half, significant=significant)
    number, bound = re.fullmatch(r"\(?([−\d.]+) ± ([\d.]+)(?:\) × 10.+)?", text).groups()  # type: ignore[union-attr]
    assert (abs(float(number.replace("−", "-"))) > float(bound)) == significant
    assert len(re.sub(r"^0*\.?0*|\.", "", bound)) >= 2
    if "×" not in text:
        assert float(bound) == pytest.approx(half, rel=0.051)
        assert abs(float(number.replace("−", "-"))) == pytest.approx(difference, abs=0.051 * half)


def test_comparison_verdicts_say_better_and_worse_by_the_direction() -> None:
    values = np.random.default_rng(0).normal(3.0, 0.001, size=(3, 5)) + np.array([[0.0], [-0.0125], [0.0125]])
    comparison = compare(results_of(values), base="v0")
    loss = comparison_verdicts(comparison, lower_is_better=True, unit="nats")
    assert [(verdict.name, verdict.outcome) for verdict in loss] == [("v1", "better"), ("v2", "worse")]
    assert re.fullmatch(r"better by 0\.01\d\d ± 0\.00\d\d nats \(95 %, 5 seeds\)", loss[0].text)
    accuracy = comparison_verdicts(comparison, lower_is_better=False)
    assert [verdict.outcome for verdict in accuracy] == ["worse", "better"]
    assert accuracy[0].text == loss[0].text.replace("better", "worse").replace(" nats", "")


def test_comparison_verdicts_state_what_would_have_been_found() -> None:
    comparison = compare(results_of(PAIR), base="v0", level=0.99, power=0.9)
    (verdict,) = comparison_verdicts(comparison, lower_is_better=True, unit="nats")
    assert verdict.outcome == "no evidence"
    assert re.fullmatch(
        r"no evidence of a difference \(−0\.20 ± 0\.57 nats, 99 %, 3 seeds\); "
        r"an effect of 0\.\d\d nats would have been found with 90 % probability",
        verdict.text,
    )
    detectable = float(re.search(r"effect of ([\d.]+)", verdict.text).group(1))  # type: ignore[union-attr]
    assert detectable == pytest.approx(comparison.table["detectable"].iloc[0], rel=0.05)


def test_comparison_verdicts_where_nothing_can_be_concluded() -> None:
    (one_seed,) = comparison_verdicts(compare(results_of(PAIR[:, :1]), base="v0"), lower_is_better=True, unit="nats")
    assert one_seed.outcome == "unknown"
    assert one_seed.text == "−0.100 nats (1 seed): no verdict, because the noise between seeds is unknown"
    values = np.array([[1.0, 1.0], [1.0, 1.0], [0.5, 0.5], [math.nan, math.inf]])
    equal, exact, failed = comparison_verdicts(compare(results_of(values), base="v0"), lower_is_better=True)
    assert (equal.outcome, equal.text) == ("equal", "no difference at all (2 seeds, no noise between seeds)")
    assert (exact.outcome, exact.text) == ("better", "better by 0.500 (2 seeds, no noise between seeds)")
    assert (failed.name, failed.outcome) == ("v3", "unknown")
    assert failed.text == "not compared: no run has a finite value"


def test_effect_verdicts_name_main_effects_and_interactions() -> None:
    random = np.random.default_rng(0)
    records = [
        {
            "variant": f"{memory}{decay}",
            "memory": memory,
            "decay": decay,
            "seed": seed,
            "value": 3 - 0.1 * (memory == "on") * (decay == "on") + 0.001 * random.normal(),
        }
        for memory in ("off", "on")
        for decay in ("off", "on")
        for seed in range(3)
    ]
    effects = factorial_effects(tidy_results(records, axes=["memory", "decay"]), base="offoff")
    memory, _, both = effect_verdicts(effects, lower_is_better=True, unit="nats")
    assert memory.name == "memory: on − off"
    assert memory.text.startswith("better by 0.0")
    assert both.outcome == "better"
    assert both.text.startswith("together better than the sum of both by 0.")
    lacking = tidy_results([record for record in records if record["variant"] != "onon"], axes=["memory", "decay"])
    verdicts = effect_verdicts(factorial_effects(lacking, base="offoff"), lower_is_better=True)
    assert [verdict.outcome for verdict in verdicts] == ["unknown"] * 3
    assert all(verdict.text.startswith("cannot be told") for verdict in verdicts)
