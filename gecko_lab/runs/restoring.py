"""States put back from a checkpoint, with one message where it does not hold what it should."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.trainer.connectors.checkpoint_connector import _CheckpointConnector
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.runs.checkpoint_folder import DamagedCheckpoint


class CheckedRestoring(_CheckpointConnector):
    """Lightning's restoring of checkpoints.

    Raises:
        ConfigurationError: the checkpoint is of another network.
        DamagedCheckpoint: it lacks a state, or holds something else in its place.
    """

    def _restore_modules_and_callbacks(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        with _told(checkpoint_path):
            super()._restore_modules_and_callbacks(checkpoint_path, weights_only)

    def restore_training_state(self) -> None:
        """Put back loops, optimisers and schedules."""
        with _told(self._ckpt_path):
            super().restore_training_state()


def install(trainer: Trainer) -> None:
    """Let the trainer restore checkpoints so, before it is used."""
    trainer._checkpoint_connector = CheckedRestoring(trainer)


@contextmanager
def _told(path: Any) -> Iterator[None]:
    try:
        yield
    except (UserError, OSError, MisconfigurationException, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what is missing or of another type shows anywhere
        reason = " ".join(str(error).split())
        if "loading state_dict" in reason:
            raise ConfigurationError(f"--ckpt_path: the checkpoint is of another network: {reason[:300]}") from error
        raise DamagedCheckpoint(
            f"the checkpoint {path} does not hold what a training is gone on from ({type(error).__name__}: "
            f"{reason[:160]})"
        ) from error
