"""Checkpoints straight to the disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from gecko_lab.runs.checkpoint_folder import DamagedCheckpoint


class DirectCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint to a local file without a second copy of it in memory, which Lightning's makes.

    The file is no checkpoint until whoever asked for it gives it its name (see `CheckpointFolder.commit`).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write plain values and tensors.

        Raises:
            OSError: the disk is full, the folder is not there or cannot be written.
        """
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        failure: list[OSError] = []
        with Path(path).open("wb") as file:
            try:
                torch.save(checkpoint, _Noting(file, failure))  # type: ignore[arg-type]
            except RuntimeError as error:  # PyTorch hides what the file said
                raise (failure[0] if failure else error) from error

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Read what `save_checkpoint` wrote.

        Raises:
            DamagedCheckpoint: it is something else, or holds more than plain values.
        """
        try:
            checkpoint = super().load_checkpoint(path, *args, **kwargs)
        except (OSError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever PyTorch stumbles over in a file that is not its own
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DamagedCheckpoint(f"the checkpoint {path} cannot be read: {reason[:160]}") from error
        if not isinstance(checkpoint, dict):
            raise DamagedCheckpoint(f"the checkpoint {path} is not one of a training")
        return checkpoint


class _Noting:
    """A file that remembers why it could not be written."""

    def __init__(self, file: Any, failure: list[OSError]) -> None:
        self._file, self._failure = file, failure

    def write(self, data: Any) -> int:
        try:
            return int(self._file.write(data))
        except OSError as error:
            self._failure.append(error)
            raise

    def flush(self) -> None:
        self._file.flush()
