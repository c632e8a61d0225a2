"""Which run is started when, with a launcher that only pretends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gecko_lab.grids import scheduler as module
from gecko_lab.grids.launcher import Job, Launcher
from gecko_lab.grids.plan import PlannedRun
from gecko_lab.grids.progress import RunProgress
from gecko_lab.grids.scheduler import Scheduler
from gecko_lab.runs.lock import FILE_NAME as LOCK_FILE


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.0)


def write_state(folder: Path, state: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"format": "gecko-lab-run", "format_version": 1, "identity": "0", "state": state, "starts": []}
    (folder / "run.json").write_text(json.dumps(record | {"progress": {"step": 5}}))


class Pretending(Launcher):
    """A launcher whose jobs do what `act` does and end at the next look."""

    def __init__(self, slots: int, act: Callable[[Job, int], int]) -> None:
        self._slots, self._act = slots, act
        self.started: list[str] = []
        self.most = 0
        self.calls: list[str] = []
        self._running: list[Job] = []

    @property
    def slots(self) -> int:
        return self._slots

    def start(self, jobs: Sequence[Job]) -> None:
        self.started += [job.name for job in jobs]
        self._running += jobs
        self.most = max(self.most, len(self._running))

    def ended(self) -> list[tuple[Job, int | None]]:
        ended: list[tuple[Job, int | None]] = [
            (job, self._act(job, self.started.count(job.name))) for job in self._running
        ]
        self._running = []
        return ended

    def stop(self) -> None:
        self.calls.append("stop")

    def kill(self) -> None:
        self.calls.append("kill")


def runs(folder: Path, count: int) -> list[PlannedRun]:
    variant: Any = SimpleNamespace(name="v", steps=5, tokens_per_step=10, predicted={})
    return [PlannedRun(variant, seed, folder / "v" / f"seed-{seed}") for seed in range(count)]


def finish(job: Job, attempt: int) -> int:
    write_state(Path(job.words[-1]), "finished")
    return 0


def schedule(
    planned: list[PlannedRun], launcher: Pretending, retries: int = 1, shown: list[list[str]] | None = None
) -> Scheduler:
    def show(progress: Sequence[RunProgress]) -> None:
        if shown is not None:
            shown.append([one.state for one in progress])

    return Scheduler(planned, launcher, retries=retries, show=show)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_run_trains_everything_in_order_and_never_more_than_fits(slots: int, tmp_path: Path) -> None:
    launcher = Pretending(slots, finish)
    scheduler = schedule(runs(tmp_path, 5), launcher)
    assert scheduler.run() is None
    assert launcher.started == [f"v/seed-{seed}" for seed in range(5)]
    assert launcher.most <= slots
    assert {one.state for one in scheduler.progress} == {"finished"}
    assert {one.step for one in scheduler.progress} == {5}


def test_run_names_the_configuration_and_the_folder(tmp_path: Path) -> None:
    words: list[tuple[str, ...]] = []

    def act(job: Job, attempt: int) -> int:
        words.append(job.words)
        return finish(job, attempt)

    schedule(runs(tmp_path, 1), Pretending(1, act)).run()
    folder = tmp_path / "v" / "seed-0"
    assert words == [("fit", "--config", f"{folder}.yaml", "--run", str(folder))]


def test_run_leaves_finished_runs_alone(tmp_path: Path) -> None:
    planned = runs(tmp_path, 3)
    write_state(planned[1].folder, "finished")
    launcher = Pretending(1, finish)
    schedule(planned, launcher).run()
    assert launcher.started == ["v/seed-0", "v/seed-2"]


@pytest.mark.parametrize("retries", [0, 1, 3])
@pytest.mark.parametrize("good_attempt", [1, 2, 9])
def test_run_tries_again_and_reports_the_end_of_the_log(retries: int, good_attempt: int, tmp_path: Path) -> None:
    def act(job: Job, attempt: int) -> int:
        if job.name == "v/seed-0" and attempt < good_attempt:
            write_state(Path(job.words[-1]), "failed")
            job.log.write_text((job.log.read_text() if job.log.exists() else "") + f"line of attempt {attempt}\n" * 30)
            return 1
        return finish(job, attempt)

    launcher = Pretending(1, act)
    scheduler = schedule(runs(tmp_path, 2), launcher, retries)
    assert scheduler.run() is None
    first, second = scheduler.progress
    attempts = min(retries + 1, good_attempt)
    assert launcher.started.count("v/seed-0") == first.attempts == attempts
    assert second.state == "finished"
    if good_attempt > retries + 1:
        assert first.state == "failed"
        assert first.error.splitlines() == [f"line of attempt {attempts}"] * 12
    else:
        assert (first.state, first.error) == ("finished", "")


def test_run_does_not_believe_an_exit_code_of_zero(tmp_path: Path) -> None:
    scheduler = schedule(runs(tmp_path, 1), Pretending(1, lambda job, attempt: 0), retries=0)
    scheduler.run()
    assert scheduler.progress[0].state == "failed"
    assert "exit code 0 and printed nothing" in scheduler.progress[0].error


def test_run_waits_for_a_run_that_another_process_holds(tmp_path: Path) -> None:
    planned = runs(tmp_path, 2)
    write_state(planned[0].folder, "running")
    code = f"""
    import fcntl, os, sys
    file = os.open({str(planned[0].folder / LOCK_FILE)!r}, os.O_RDWR | os.O_CREAT)
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.readline()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        launcher = Pretending(1, finish)
        seen: list[list[str]] = []

        def show(progress: Sequence[RunProgress]) -> None:
            seen.append([one.state for one in progress])
            if seen[-1] == ["elsewhere", "finished"] and holder.poll() is None:
                assert launcher.started == ["v/seed-1"]
                holder.communicate("go\n")

        assert Scheduler(planned, launcher, retries=0, show=show).run() is None
    assert launcher.started == ["v/seed-1", "v/seed-0"]
    assert ["elsewhere", "finished"] in seen


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_run_stops_on_a_signal_once_all_have_stopped(signum: signal.Signals, tmp_path: Path) -> None:
    def act(job: Job, attempt: int) -> int:
        if job.name == "v/seed-1":
            os.kill(os.getpid(), signum)
            write_state(Path(job.words[-1]), "interrupted")
            return -signum
        return finish(job, attempt)

    launcher = Pretending(1, act)
    before = signal.getsignal(signum)
    scheduler = schedule(runs(tmp_path, 4), launcher)
    assert scheduler.run() == signum
    assert launcher.started == ["v/seed-0", "v/seed-1"]
    assert [one.state for one in scheduler.progress] == ["finished", "interrupted", "waiting", "waiting"]
    assert launcher.calls[0] == "stop"
    assert signal.getsignal(signum) is before


def test_run_kills_at_the_second_signal(tmp_path: Path) -> None:
    class Stubborn(Pretending):
        def ended(self) -> list[tuple[Job, int | None]]:
            if "kill" in self.calls:
                return super().ended()
            if self._running:
                os.kill(os.getpid(), signal.SIGINT)
            return []

    launcher = Stubborn(1, lambda job, attempt: -9)
    scheduler = schedule(runs(tmp_path, 1), launcher)
    assert scheduler.run() == signal.SIGINT
    assert launcher.calls[:2] == ["stop", "kill"]
    assert scheduler.progress[0].state == "interrupted"
