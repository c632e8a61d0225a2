"""A launcher that trains in this process: nothing is imported anew."""

from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

from gecko_lab.__main__ import main
from gecko_lab.grids.launcher import Job, Launcher


class InProcess(Launcher):
    """Runs each job as it is started."""

    def __init__(self, *_: Any) -> None:
        self._ended: list[tuple[Job, int | None]] = []

    @property
    def slots(self) -> int:
        return 1

    def start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.train(job)

    def train(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            code = main(list(job.words))
        self._ended.append((job, code))

    def ended(self) -> list[tuple[Job, int | None]]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""
