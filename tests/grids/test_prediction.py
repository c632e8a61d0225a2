"""Time and memory: from a trial, from runs that are there, from what an earlier start has found."""

import json
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.launcher import Job
from gecko_lab.grids.plan import Plan
from gecko_lab.grids.prediction import TRIAL_STEPS, finish_predictions, predict, trial_settings
from tests.grids.in_process import InProcess
from tests.grids.tiny import VALUE_DIM, plan_of

GRID: dict[str, Any] = {"axes": {"width": {"16": {}, "24": {VALUE_DIM: 24}}}}


class Refusing(InProcess):
    """A launcher that must not be asked."""

    def train(self, job: Job) -> None:
        raise AssertionError(f"{job.name} was started")


def log_speed(plan: Plan, tokens_per_second: float) -> None:
    """What a run of the first variant has logged."""
    folder = plan.runs()[0].folder
    folder.mkdir(parents=True)
    text = f"step,tokens_per_second,peak_memory_bytes\n1,,\n2,50,100\n3,{tokens_per_second},2000\n4,,\n"
    (folder / "metrics.csv").write_text(text)


def test_predict_tries_out_a_few_steps_and_leaves_nothing_behind(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID, "--trainer.max_steps=1000", "--model.optimizer.warmup=10")
    told: list[str] = []
    predict(plan, InProcess(), trial=True, tell=told.append)
    finish_predictions(plan)
    for variant in plan.variants:
        predicted = variant.predicted
        assert predicted["seconds_per_step"] > 0
        assert predicted["memory_bytes"] > 1e6
        assert predicted["seconds"] == predicted["seconds_before"] + 1000 * predicted["seconds_per_step"]
    assert told == [
        f"a trial of {TRIAL_STEPS} steps of 2 variants; --no_trial leaves it out",
        *("tried width-16", "tried width-24"),
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "text.jsonl", "cache"}


def test_predict_believes_runs_that_are_there(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    log_speed(plan, 256)
    predict(plan, Refusing(), trial=False, tell=print)
    assert plan.variants[0].predicted == {"seconds_per_step": 128 / 256, "memory_bytes": 2000}
    assert plan.variants[1].predicted == {}
    finish_predictions(plan)
    assert plan.variants[0].predicted["seconds"] == 3
    with pytest.raises(AssertionError, match="width-24 was started"):
        predict(plan, Refusing(), trial=True, tell=print)


def test_predict_remembers_what_an_earlier_start_has_found(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    for variant in plan.variants:
        variant.predicted = {"seconds_per_step": 0.5}
    plan.write()
    again = plan_of(tmp_path, GRID)
    predict(again, Refusing(), trial=True, tell=print)
    assert [variant.predicted for variant in again.variants] == [{"seconds_per_step": 0.5}] * 2
    changed = plan_of(tmp_path, {"axes": {"width": {"16": {}, "24": {VALUE_DIM: 26}}}})
    with pytest.raises(AssertionError, match="width-24 was started"):
        predict(changed, Refusing(), trial=True, tell=print)


def test_predict_shows_why_a_variant_does_not_train(tmp_path: Path) -> None:
    class Failing(InProcess):
        def train(self, job: Job) -> None:
            job.log.write_text("first\n" * 20 + "RuntimeError: out of memory\n")
            self._ended.append((job, 1))

    with pytest.raises(ConfigurationError, match=r"width-16 does not train:(\n  first){11}\n  RuntimeError: out of"):
        predict(plan_of(tmp_path, GRID), Failing(), trial=True, tell=print)


def test_trial_settings_change_only_the_length_and_what_is_said(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    variant = plan.variants[1]
    ours, theirs = trial_settings(variant, 0), variant.run_settings(0)
    assert ours["model"] == theirs["model"]
    assert ours["data"] == theirs["data"]
    assert ours["trainer"]["max_steps"] == TRIAL_STEPS
    assert json.dumps(variant.run_settings(0)) == json.dumps(theirs)
