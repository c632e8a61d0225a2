"""A run that is asked to stop leaves a checkpoint, wherever it is, and goes on from it exactly."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.callbacks import LossByPosition
from gecko_lab.language_model import LanguageModel
from gecko_lab.runs import checkpoints, signals
from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.record_file import read_record, run_state
from tests.runs import forked
from tests.runs.comparison import assert_same_run, checkpoint, metrics
from tests.runs.stopping import OPTIONS, fit
from tests.training import TOKENS_PER_BATCH, arguments

LONGEST = 120  # seconds without what is waited for, after which a test fails
ACCUMULATED = {"model__optimizer__batch_tokens": 2 * TOKENS_PER_BATCH, "trainer__val_check_interval": 0.07}


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.3)


def hang(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, when: Callable[[Any], bool]) -> None:
    """At a moment of the training SIGTERM comes, and the program does not get any further by itself."""
    given = getattr(owner, method)

    def hanging(self: Any, *arguments: Any, **named: Any) -> Any:
        if when(self):
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                time.sleep(0.01)
        return given(self, *arguments, **named)

    monkeypatch.setattr(owner, method, hanging)


def in_step(step: int) -> Callable[[Any], bool]:
    """In the training of a step; in its last batch where it has several."""
    return lambda module: (
        module.trainer.global_step == step - 1
        and (module.trainer.fit_loop.epoch_loop.batch_idx + 1) % module.trainer.accumulate_grad_batches == 0
    )


def in_validation(step: int) -> Callable[[Any], bool]:
    """In the second batch of the validation after a step."""
    return lambda module: (
        module.trainer.global_step == step
        and module.trainer.validating
        and module.trainer.fit_loop.epoch_loop.val_loop.batch_progress.current.ready == 2
    )


def steps(run: Path) -> list[int]:
    return CheckpointFolder(run / "checkpoints").steps()


@pytest.mark.parametrize("step", [1, 8])
def test_a_step_that_takes_too_long_is_left_in_its_middle(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_grace: None, step: int
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_SLOW_STEP_SECONDS", 0.0)  # every step is slow
        hang(patch, LanguageModel, "training_step", in_step(step))
        assert fit(trainings, run) == 128 + signal.SIGTERM
    assert steps(run)[-1] == step - 1
    assert fit(trainings, run) == 0
    assert_same_run(run, trainings / "whole")


@pytest.mark.parametrize("step", [6, 12])
def test_a_validation_that_takes_too_long_is_done_again(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_grace: None, step: int
) -> None:
    run = tmp_path / "run"
    for _ in range(2):  # the second time at once
        with monkeypatch.context() as patch:
            hang(patch, LanguageModel, "validation_step", in_validation(step))
            assert fit(trainings, run) == 128 + signal.SIGTERM
        assert steps(run)[-1] == step
        loops = checkpoint(run)["loops"]["fit_loop"]
        assert loops["epoch_loop.state_dict"]["validation_pending"]
    assert fit(trainings, run) == 0
    assert_same_run(run, trainings / "whole")
    CheckpointFolder(run / "checkpoints").newest(set_aside=False)


def test_a_step_of_several_batches_is_left_in_its_middle(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_grace: None
) -> None:
    """In its last batch, and in a validation between its batches."""
    assert fit(trainings, tmp_path / "whole", **ACCUMULATED) == 0
    run = tmp_path / "run"
    for method, when in (("training_step", in_step(4)), ("validation_step", in_validation(10))):
        with monkeypatch.context() as patch:
            hang(patch, LanguageModel, method, when)
            assert fit(trainings, run, **ACCUMULATED) == 128 + signal.SIGTERM
    assert steps(run)[-1] == 10
    assert fit(trainings, run, **ACCUMULATED) == 0
    assert_same_run(run, tmp_path / "whole")


@pytest.mark.parametrize(
    ("owner", "method"),
    [(LanguageModel, "configure_gradient_clipping"), (LossByPosition, "on_validation_epoch_end")],
)
def test_a_change_is_done_to_its_end(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    """Weights and what is logged are never left half changed, though the time of grace is over."""
    run, given, calls = tmp_path / "run", getattr(owner, method), []
    with monkeypatch.context() as patch:
        patch.setattr(signals, "GRACE_SECONDS", 0.05)

        def slow(*arguments: Any, **named: Any) -> Any:
            calls.append(method)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.2)
            return given(*arguments, **named)

        patch.setattr(owner, method, slow)
        assert fit(trainings, run) == 128 + signal.SIGTERM
    assert steps(run)[-1] == (2 if owner is LanguageModel else 6)
    assert fit(trainings, run) == 0
    assert_same_run(run, trainings / "whole")


def test_signals_are_given_back(trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(number) for number in (*signals._SIGNALS, signal.SIGALRM)]
    hang(monkeypatch, LanguageModel, "training_step", in_step(3))
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.1)
    assert fit(trainings, tmp_path / "run") == 128 + signal.SIGTERM
    assert [signal.getsignal(number) for number in (*signals._SIGNALS, signal.SIGALRM)] == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def start(folder: Path, run: Path, **options: Any) -> ForkServerProcess:
    """A training in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.forked"])
    words = ["fit", "--run", str(run), *arguments(folder, **OPTIONS | options)]
    process = context.Process(target=forked.train, args=(words, run.with_suffix(".log")))
    process.start()
    return process


def wait_for(happened: Callable[[], bool], process: ForkServerProcess) -> None:
    begin = time.monotonic()
    while not happened():
        assert process.is_alive(), "the training has ended"
        assert time.monotonic() - begin < LONGEST
        time.sleep(0.005)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_fit_stops_at_a_signal_with_a_checkpoint(trainings: Path, tmp_path: Path, signum: signal.Signals) -> None:
    run = tmp_path / "run"
    long = {"trainer__max_steps": 100_000, "model__optimizer__schedule": "constant"}
    process = start(trainings, run, **long)
    wait_for(lambda: (run / "metrics.csv").exists() and len(metrics(run)) > 3, process)
    os.kill(process.pid or 0, signum)
    process.join(LONGEST)
    log = run.with_suffix(".log").read_text()
    assert process.exitcode == 128 + signum, log
    last = steps(run)[-1]
    assert f"stopped by {signum.name} with a checkpoint of step {last:,}; the same command goes on" in log
    assert "Traceback" not in log
    assert run_state(run) == "interrupted"
    assert ((read_record(run) or {})["progress"]["step"], checkpoint(run)["global_step"]) == (last, last)
    assert int(metrics(run)[-1]["step"]) == last


def test_fit_stops_where_its_workers_get_the_signal_too(trainings: Path, tmp_path: Path) -> None:
    """As Ctrl-C and a cluster send it: to every process of the group."""
    run, log = tmp_path / "run", tmp_path / "log"
    options = OPTIONS | {"trainer__max_steps": 100_000, "data__num_workers": 1}
    command = [sys.executable, "-m", "gecko_lab", "fit", "--run", str(run), *arguments(trainings, **options)]
    with (
        log.open("w") as output,
        subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True) as process,
    ):
        try:
            begin = time.monotonic()
            while not (run / "metrics.csv").exists() or len(metrics(run)) < 4:
                assert process.poll() is None
                assert time.monotonic() - begin < LONGEST
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(LONGEST) == 128 + signal.SIGINT, log.read_text()
        finally:
            process.kill()
    assert "Traceback" not in log.read_text()
    assert (run_state(run), checkpoint(run)["global_step"]) == ("interrupted", steps(run)[-1])


def test_a_second_interrupt_from_the_keyboard_stops_at_once(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a step hangs and the time of grace is long."""
    run, given = tmp_path / "run", LanguageModel.training_step

    def hanging(self: LanguageModel, *arguments: Any) -> Any:
        if in_step(6)(self):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second one was not obeyed")
        return given(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(signals, "GRACE_SECONDS", 3600.0)
        patch.setattr(LanguageModel, "training_step", hanging)
        assert fit(trainings, run) == 128 + signal.SIGINT
    assert (run_state(run), steps(run)) == ("interrupted", [4])
    assert fit(trainings, run) == 0
    assert_same_run(run, trainings / "whole")
