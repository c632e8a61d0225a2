"""A real training, killed again and again at random moments, ends with the bits of one that was never killed."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from gecko_lab.runs.record_file import read_record, run_state
from tests.runs import forked
from tests.runs.comparison import assert_same_run
from tests.training import LAYER, NETWORK, arguments

KILLS = 22
STEPS = 240  # more than a slow machine takes between the kills
# dropout, so that random numbers matter; several epochs, validations and batches to a step
OPTIONS = {
    "model__network": {**NETWORK, "dropout": 0.1, "layer": LAYER},
    "model__optimizer__batch_tokens": 256,
    "model__optimizer__lr": 0.01,
    "trainer__max_steps": STEPS,
    "trainer__val_check_interval": 14,
    "checkpoint__every": "4 steps",
}
LONGEST = 120  # seconds without a step, after which a life is given up


class Life:
    """A process that trains: the command itself, or, which is faster, a fork of one that has imported everything."""

    def __init__(self, folder: Path, run: str, *, as_command: bool) -> None:
        words = ["fit", "--run", str(folder / run), *arguments(folder, **OPTIONS)]
        self.log = folder / f"{run}.log"
        if as_command:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            with self.log.open("ab") as log:
                command = [sys.executable, "-m", "gecko_lab", *words]
                self._command = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            self.pid = self._command.pid
        else:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["tests.runs.forked"])
            self._fork = context.Process(target=forked.train, args=(words, self.log))
            self._fork.start()
            self.pid = self._fork.pid or 0
        self._as_command = as_command

    def code(self) -> int | None:
        """The exit code; none while it runs."""
        return self._command.poll() if self._as_command else self._fork.exitcode

    def wait(self) -> int | None:
        """Wait for the end."""
        if self._as_command:
            return self._command.wait()
        self._fork.join()
        return self._fork.exitcode

    def kill(self) -> int | None:
        """SIGKILL, unless it has just ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()


def rows(run: Path) -> int:
    path = run / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def writing(run: Path) -> bool:
    return any((run / "checkpoints").glob(".step-*.partial"))


def kill_at_a_random_moment(life: Life, run: Path, draw: random.Random) -> None:
    """After some steps, and then at once, a little later, or as soon as a checkpoint is being written."""
    wanted, kind = draw.randrange(1, 10), draw.choice(["now", "later", "writing", "writing"])
    pause = draw.random() * 0.03
    begin, first = time.monotonic(), None
    while life.code() is None and time.monotonic() - begin < LONGEST:
        read = read_record(run) if (run / "run.json").exists() else None
        if read and read["starts"][-1]["pid"] == life.pid and "step" in read["starts"][-1]:
            first = rows(run) if first is None else first
            if rows(run) >= first + wanted:
                break
        time.sleep(0.002)
    if kind == "later":
        time.sleep(pause)
    while kind == "writing" and life.code() is None and not writing(run):
        time.sleep(0.0003)
    life.kill()


@pytest.mark.minutes
def test_a_run_killed_again_and_again_equals_one_never_killed(tmp_path: Path) -> None:
    whole = Life(tmp_path, "whole", as_command=True)
    assert whole.wait() == 0, whole.log.read_text()
    run, draw = tmp_path / "killed", random.Random(0)
    kills = torn = 0
    while kills < KILLS:
        life = Life(tmp_path, "killed", as_command=kills % 5 == 0)
        kill_at_a_random_moment(life, run, draw)
        if life.code() == 0:
            break
        assert life.code() == -signal.SIGKILL, life.log.read_text()
        assert run_state(run) == "interrupted"
        kills += 1
        torn += writing(run)
    last = Life(tmp_path, "killed", as_command=True)
    assert last.wait() == 0, last.log.read_text()
    assert kills >= 20, f"the run ended after {kills} kills"
    assert torn >= 2, "no kill hit a checkpoint that was being written"
    assert run_state(run) == "finished"
    assert_same_run(run, tmp_path / "whole")
