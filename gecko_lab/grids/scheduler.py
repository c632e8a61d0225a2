"""Which run is started when: resuming, retrying, waiting, stopping."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gecko_lab.grids.launcher import Launcher
from gecko_lab.grids.plan import PlannedRun
from gecko_lab.grids.progress import RunProgress
from gecko_lab.runs.lock import is_locked
from gecko_lab.runs.record_file import run_state, written_step

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PAUSE_SECONDS = 0.1
_LOOK_SECONDS = 1.0


class Scheduler:
    """Trains the runs of a grid to their end.

    Finished runs are left alone; one that another process holds is waited for; interrupted ones go on by themselves,
    and that they were interrupted is no failure as long as they get on. The first SIGINT or SIGTERM lets every run stop
    with a checkpoint; a second one ends them at once.

    Args:
        runs: in the order in which they are started.
        launcher: where they are trained.
        retries: how often a run that failed is started again.
        show: is called with the progress of all runs, again and again.

    Attributes:
        progress: of each run.
        signum: the signal that stopped it; none before.
    """

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        launcher: Launcher,
        *,
        retries: int,
        show: Callable[[Sequence[RunProgress]], None],
    ) -> None:
        self.progress = [RunProgress(run) for run in runs]
        self.signum: int | None = None
        self._launcher, self._retries, self._show = launcher, retries, show
        self._by_name = {progress.run.name: progress for progress in self.progress}
        self._signals = 0
        self._looked = 0.0

    def run(self) -> int | None:
        """Train all runs.

        Returns:
            The signal that stopped it; none where every run is finished or has failed for good.
        """
        with self._listening():
            try:
                for job in self._launcher.adopt([progress.run.job() for progress in self.progress]):
                    self._begin(self._by_name[job.name])
                while not self._is_over():
                    self._take_ended()
                    if self.signum is None:
                        self._start_waiting()
                    self._look()
                    time.sleep(_PAUSE_SECONDS)
            finally:
                self._launcher.close()
        self._look(at_once=True)
        return self.signum

    def _is_over(self) -> bool:
        if self.signum is not None:
            return not any(progress.is_under_way for progress in self.progress)
        return all(progress.is_over for progress in self.progress)

    def _take_ended(self) -> None:
        for job, code in self._launcher.ended():
            progress = self._by_name[job.name]
            state = run_state(progress.run.folder)
            if state == "finished":
                progress.state = "finished"
                progress.read_end()
            elif self.signum is not None:
                progress.state = "interrupted"
            elif is_locked(progress.run.folder):  # who was faster will be waited for
                progress.state, progress.attempts = "elsewhere", progress.attempts - 1
            else:
                self._try_again(progress, code, interrupted=state == "interrupted")

    def _try_again(self, progress: RunProgress, code: int | None, *, interrupted: bool) -> None:
        """A run that should go on: let it, unless it has failed too often."""
        if interrupted and written_step(progress.run.folder) > progress.first_step:
            progress.attempts -= 1
        if progress.attempts <= self._retries:
            progress.state = "waiting"
        else:
            how = "" if code is None else f" with exit code {code}"
            progress.state = "failed"
            progress.error = progress.last_lines() or f"it ended{how} and printed nothing"

    def _start_waiting(self) -> None:
        free = self._launcher.slots - sum(progress.is_under_way for progress in self.progress)
        starting: list[RunProgress] = []
        for progress in self.progress:
            if progress.state not in ("waiting", "elsewhere") or free == 0:
                continue
            if progress.state == "elsewhere" and time.monotonic() - self._looked < _LOOK_SECONDS / 2:
                continue
            folder = progress.run.folder
            if run_state(folder) == "finished":
                progress.state = "finished"
                progress.read_end()
            elif is_locked(folder):
                progress.state = "elsewhere"
            else:
                starting.append(progress)
                free -= 1
        for progress in starting:
            self._begin(progress)
        if starting:
            self._launcher.start([progress.run.job() for progress in starting])

    def _begin(self, progress: RunProgress) -> None:
        log = progress.run.log
        progress.state, progress.attempts = "running", progress.attempts + 1
        progress.log_start = log.stat().st_size if log.exists() else 0
        progress.first_step = written_step(progress.run.folder)

    def _look(self, *, at_once: bool = False) -> None:
        if not at_once and time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        queued = self._launcher.queued()
        for progress in self.progress:
            if progress.is_under_way:
                progress.state = "queued" if progress.run.name in queued else "running"
            if progress.state in ("running", "elsewhere"):
                progress.read()
        self._show(self.progress)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        given: dict[int, Any] = {signum: signal.signal(signum, self._note) for signum in _SIGNALS}
        try:
            yield
        finally:
            for signum, handler in given.items():
                signal.signal(signum, handler)

    def _note(self, signum: int, frame: Any) -> None:
        self._signals += 1
        if self._signals == 1:
            self.signum = signum
            # not print: the signal may have come in the middle of one
            os.write(2, b"\ngecko-lab: stopping every run with a checkpoint; once more stops them without\n")
            self._launcher.stop()
        else:
            self._launcher.kill()
