"""TensorBoard's event files across restarts: nothing twice, and in order whatever the clock says."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

_PREFIX = "events.out.tfevents."


class StepTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger with `step` as in `metrics.csv`: how many optimiser steps had been taken.

    Args:
        folder: of the run.
        first_step: what Lightning's step 0 is called.
    """

    def __init__(self, folder: Path, *, first_step: int = 1) -> None:
        super().__init__(folder, name="", version="", default_hp_metric=False)
        _mute_writing_thread()
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
    for number, path in enumerate(sorted(folder.glob(f"{_PREFIX}*"), key=_age)):
        _cut(path, last_step)
        rest = path.name.removeprefix(_PREFIX).partition(".")[2]
        os.replace(path, path.with_name(f"{_PREFIX}{number + 1:010}.{rest}"))


def _mute_writing_thread() -> None:
    """TensorBoard's thread prints a traceback when it cannot write, and hands the error to the next call as well."""
    given = threading.excepthook
    if getattr(given, "mutes_event_files", False):
        return

    def tell(failure: Any) -> None:
        of_events = type(failure.thread).__module__ == "tensorboard.summary.writer.event_file_writer"
        if not (of_events and isinstance(failure.exc_value, OSError)):
            given(failure)

    tell.mutes_event_files = True  # type: ignore[attr-defined]
    threading.excepthook = tell


def _age(path: Path) -> tuple[int, str]:
    time = path.name.removeprefix(_PREFIX).partition(".")[0]
    return (int(time) if re.fullmatch("[0-9]+", time) else 0, path.name)


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
