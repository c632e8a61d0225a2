"""The TensorBoard writer of a trainer."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger


def writer(trainer: Trainer) -> Any | None:
    """The `SummaryWriter` of the main process, if the trainer logs to TensorBoard."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)
