"""Processes of `gecko-lab grid`, to be killed, and what their runs are compared with."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gecko_lab.__main__ import main
from gecko_lab.grids.plan import Plan
from gecko_lab.grids.results import run_records
from tests.runs import forked

LONGEST = 240  # seconds without what is waited for, after which a test is given up


class Life:
    """A process of `gecko-lab grid`, forked from one that has imported everything."""

    def __init__(self, config: Path, folder: Path, log: Path, *more: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.runs.forked"])
        words = ["grid", str(config), "--folder", str(folder), "--no_trial", *more]
        self._process = context.Process(target=forked.train, args=(words, log, dict(os.environ)))
        self._process.start()
        self.pid = self._process.pid or 0

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    @property
    def is_over(self) -> bool:
        return self._process.exitcode is not None


def wait_for(holds: Callable[[], Any], life: Life | None = None) -> Any:
    """Wait until something holds; give up where the process has ended without it."""
    begin = time.monotonic()
    while time.monotonic() - begin < LONGEST:
        if value := holds():
            return value
        assert life is None or not life.is_over, "the grid has ended before"
        time.sleep(0.002)
    raise AssertionError("it took too long")


def trained_in_this_process(plan: Plan) -> Plan:
    """The same runs, one after the other and never killed."""
    for run in plan.runs():
        run.write_config()
        assert main(["fit", "--config", str(run.config), "--run", str(run.folder)]) == 0
    return plan


def values(plan: Plan) -> list[Any]:
    found = [record["value"] for record in run_records(plan)]
    assert None not in found
    return found
