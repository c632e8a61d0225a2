"""A run of a grid inside a SLURM job, which is queued again when it is preempted or its time is over."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from gecko_lab.runs.record_file import run_state, written_step

_WARNING = signal.SIGUSR2
"""What submitit asks SLURM to send ahead of the end."""


class NotFinished(Exception):
    """The training ended before its end; the run's log and folder say why."""


@dataclass
class SlurmTraining:
    """What a job does, one process for each device: `gecko-lab WORDS`.

    Attributes:
        words: the arguments of `gecko-lab`.
        folder: of the run.
        log: the file that the output is added to.
        minutes: that the job may take.
        step: how far the run was when the job was queued.
    """

    words: tuple[str, ...]
    folder: str
    log: str
    minutes: float
    step: int = 0
    _began: float = field(default=0.0, init=False)

    def __call__(self) -> None:
        """Train; when warned, stop with a checkpoint first and then do what submitit does on a warning.

        Raises:
            NotFinished: the training has failed, or was stopped.
        """
        self._began = time.monotonic()
        requeue = signal.getsignal(_WARNING)
        warned = False

        def warn(signum: int, frame: FrameType | None) -> None:
            nonlocal warned
            if os.getpid() == process:  # a forked worker has this handler too
                warned = True
                os.kill(process, signal.SIGTERM)

        process = os.getpid()
        signal.signal(signal.SIGTERM, _leave)  # until the training takes it
        signal.signal(_WARNING, warn)
        os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("SLURM_CPUS_PER_TASK", "1"))
        with _output_to(Path(self.log)):
            code = _train(self.words)
            if warned and run_state(Path(self.folder)) != "finished" and callable(requeue):
                requeue(_WARNING, None)  # on the first process this does not return
                return
        if code:
            raise NotFinished(f"exit code {code}; see {self.log}")

    def checkpoint(self) -> Any:
        """What the job does when it comes back; none, and it does not, where its whole time did not do for a step."""
        from submitit.helpers import DelayedSubmission

        step = written_step(Path(self.folder))
        if step <= self.step and time.monotonic() - self._began > self.minutes * 60 / 2:
            print(f"gecko-lab: {self.minutes:g} minutes did not get beyond step {step}; a longer grid.slurm.time may")
            return None
        return DelayedSubmission(SlurmTraining(self.words, self.folder, self.log, self.minutes, step))


def _train(words: tuple[str, ...]) -> int:
    from gecko_lab.grids.child import train

    try:
        return train(words)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.exit(128 + signum)


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Let this process and what it starts print into a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    given = [os.dup(stream) for stream in (1, 2)]
    with log.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, before in zip((1, 2), given, strict=True):
            os.dup2(before, stream)
            os.close(before)
