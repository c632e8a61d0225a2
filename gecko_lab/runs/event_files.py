"""TensorBoard's event files across restarts: nothing twice, and in order whatever the clock says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

_PATTERN = "events.out.tfevents.*"


class StepTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger with `step` as in `metrics.csv`: how many optimiser steps had been taken.

    Args:
        folder: of the run.
        first_step: what Lightning's step 0 is called.
    """

    def __init__(self, folder: Path, *, first_step: int = 1) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)
        self._first_step = first_step

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log scalars."""
        super().log_metrics(metrics, None if step is None else step + self._first_step)


def keep_until(folder: Path, last_step: int) -> None:
    """Remove the events of steps after `last_step`, which will be logged again.

    The files are also renamed so that they come before any that will be written: TensorBoard reads files by name, which
    holds the time, and a clock may go back. Doing it twice changes nothing more.

    Args:
        folder: of the run.
        last_step: the step of the checkpoint that training goes on from.
    """
    for number, path in enumerate(sorted(folder.glob(_PATTERN), key=_age)):
        _cut(path, last_step)
        rest = path.name.split(".", 4)[4]
        os.replace(path, path.with_name(f"events.out.tfevents.{number + 1:010}.{rest}"))


def _age(path: Path) -> tuple[int, str]:
    time = path.name.split(".")[3]
    return (int(time) if time.isdigit() else 0, path.name)


def _cut(path: Path, last_step: int) -> None:
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            writer = RecordWriter(file)
            for record in RawEventFileLoader(str(path)).Load():  # ends before a record that was torn
                event = Event.FromString(record)
                # what has no step (hyperparameters) is logged again at each start
                if not event.HasField("summary") or 0 < event.step <= last_step:
                    writer.write(record)
            writer.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
