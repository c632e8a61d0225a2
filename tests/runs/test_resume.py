"""A run that was stopped anywhere and started again equals, bit for bit, one that was not."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.record_file import read_record, run_state
from tests.runs.comparison import assert_same_run
from tests.runs.stopping import contents, copy_of, fit, stopped
from tests.training import TOKENS_PER_BATCH

# An epoch has 3 batches of 64 sequences, or 48 of 4.
EPOCHS = {
    "data__batch_size": 64,
    "trainer__max_steps": -1,
    "trainer__max_epochs": 4,
    "trainer__val_check_interval": 1.0,
}
VARIANTS: dict[str, tuple[dict[str, Any], list[int]]] = {
    "epochs": (EPOCHS, [1, 3, 5]),
    "every second epoch": ({**EPOCHS, "trainer__check_val_every_n_epoch": 2}, [3, 6, 8]),
    "accumulated": (  # and validated in the middle of a step
        {"model__optimizer__batch_tokens": 2 * TOKENS_PER_BATCH, "trainer__val_check_interval": 0.07},
        [1, 2, 9],
    ),
}


@pytest.mark.parametrize("step", [1, 5, 6, 11, 12])
def test_fit_goes_on_after_any_step(trainings: Path, tmp_path: Path, step: int) -> None:
    """The first, before and after a validation, the one before the last, the last."""
    run = stopped(trainings, str(tmp_path / "run"), step)
    assert CheckpointFolder(run / "checkpoints").steps()[-1] == step
    assert run_state(run) == "interrupted"
    assert fit(trainings, run) == 0
    assert run_state(run) == "finished"
    assert_same_run(run, trainings / "whole")
    assert len((read_record(run) or {})["starts"]) == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_fit_goes_on_in_every_kind_of_training(trainings: Path, tmp_path: Path, variant: str) -> None:
    options, steps = VARIANTS[variant]
    whole = tmp_path / "whole"
    assert fit(trainings, whole, **options) == 0
    for step in steps:
        run = stopped(trainings, str(tmp_path / "run"), step, **options)
    assert fit(trainings, run, **options) == 0
    assert_same_run(run, whole)


@pytest.mark.parametrize(("then", "now"), [(2, 0), (0, 2)])
def test_fit_goes_on_with_another_number_of_workers(trainings: Path, tmp_path: Path, then: int, now: int) -> None:
    run = stopped(trainings, str(tmp_path / "run"), 7, data__num_workers=then)
    assert fit(trainings, run, data__num_workers=now) == 0
    assert_same_run(run, trainings / "whole")


def test_fit_started_again_when_finished_says_so(
    trainings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(trainings / "whole", tmp_path / "run")
    before = contents(run)
    assert fit(trainings, run) == 0
    assert "finished, 12 steps, 1,536 tokens, validation loss" in capsys.readouterr().out
    assert contents(run) == before


def test_fit_killed_between_any_two_changes_on_the_disk_goes_on(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is copied before each of its files takes its place or goes: what a kill there would leave."""
    run, copies = tmp_path / "run", []

    def watch(name: str) -> None:
        given = getattr(os, name)

        def watched(path: Any, *arguments: Any, **named: Any) -> Any:
            if str(path).startswith(str(run)):
                copies.append(copy_of(run, tmp_path / f"{len(copies):03}-{Path(path).name}"))
            return given(path, *arguments, **named)

        monkeypatch.setattr(os, name, watched)

    for name in ("replace", "unlink", "symlink"):
        watch(name)
    assert fit(trainings, run) == 0
    monkeypatch.undo()
    assert_same_run(run, trainings / "whole")
    assert len(copies) > 40
    newest = -1
    for copy in copies:  # each is a run, none has less to go on from than the one before it
        assert run_state(copy) in (None, "interrupted", "finished")
        checkpoint = CheckpointFolder(copy / "checkpoints").newest(set_aside=False)
        steps = CheckpointFolder(copy / "checkpoints").steps()
        assert checkpoint is None or checkpoint == CheckpointFolder(copy / "checkpoints").checkpoint(steps[-1])
        assert max(steps, default=-1) >= newest
        newest = max(steps, default=-1)
    events = {name for name in contents(run) if "tfevents" in name}
    first_of_step = {steps[-1]: c for c in reversed(copies) if (steps := CheckpointFolder(c / "checkpoints").steps())}
    chosen = [copies[0], copies[2], *first_of_step.values(), copies[-1]]
    for copy in chosen:
        assert fit(trainings, copy) == 0
        assert not list(copy.rglob(".*.partial"))
        assert contents(copy).keys() == contents(run).keys() - events | {
            name for name in contents(copy) if "tfevents" in name
        }
        assert_same_run(copy, trainings / "whole")
    for copy in copies:
        shutil.rmtree(copy)
