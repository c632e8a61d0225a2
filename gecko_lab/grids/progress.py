"""How far a run of a grid is, read from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gecko_lab.grids.plan import PlannedRun
from gecko_lab.runs.metrics_file import METRICS_FILE, read_metrics
from gecko_lab.runs.record_file import read_record

State = Literal["waiting", "queued", "running", "elsewhere", "finished", "interrupted", "failed"]


@dataclass
class RunProgress:
    """A run and how far it is.

    Attributes:
        run: what is trained.
        state: `queued`: a cluster has it, and not yet a machine for it; `elsewhere`: another process trains it.
        attempts: how often it was started by this process.
        step: optimiser steps taken.
        loss: of training, the last that was logged.
        tokens_per_second: the last that was logged.
        error: the last lines of the log of a run that failed.
        log_start: bytes of the log before the last attempt.
        first_step: the step that the last attempt went on from.
    """

    run: PlannedRun
    state: State = "waiting"
    attempts: int = 0
    step: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    error: str = ""
    log_start: int = 0
    first_step: int = 0
    _seen: tuple[int, int] | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether the launcher has it."""
        return self.state in ("queued", "running")

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ("finished", "failed")

    @property
    def seconds_left(self) -> float | None:
        """Time until its end; none where it is not known."""
        variant = self.run.variant
        if self.state == "finished":
            return 0.0
        if variant.steps is None:
            return None
        left = max(variant.steps - self.step, 0)
        if self.tokens_per_second:
            return left * variant.tokens_per_step / self.tokens_per_second
        per_step = variant.predicted.get("seconds_per_step")
        return None if per_step is None else left * per_step

    def read(self) -> None:
        """Look into `metrics.csv`, if it has changed."""
        try:
            stat = (self.run.folder / METRICS_FILE).stat()
        except OSError:
            return
        if self._seen == (stat.st_mtime_ns, stat.st_size):
            return
        self._seen = (stat.st_mtime_ns, stat.st_size)
        for row in read_metrics(self.run.folder):
            self.step = int(row["step"])
            self.loss = _number(row.get("loss/train")) or self.loss
            self.tokens_per_second = _number(row.get("tokens_per_second")) or self.tokens_per_second

    def read_end(self) -> None:
        """Look at where a finished run ended."""
        self.read()
        progress = (read_record(self.run.folder) or {}).get("progress", {})
        self.step = int(progress.get("step", self.step))

    def last_lines(self, count: int = 12) -> str:
        """The end of what the last attempt printed."""
        try:
            with self.run.log.open("rb") as log:
                log.seek(self.log_start)
                text = log.read().decode("utf-8", errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-count:])


def _number(text: str | None) -> float | None:
    return float(text) if text else None
