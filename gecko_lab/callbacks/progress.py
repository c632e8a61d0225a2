"""The progress bar: loss and tokens per second."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar

_SHOWN = {
    "loss/train": "loss",
    "loss/validation": "validation",
    "bits_per_byte/validation": "bits/byte",
    "tokens_per_second": "tokens/s",
}


class Progress(RichProgressBar):
    """Steps, loss and tokens per second, in short words."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The metrics worth watching, named and rounded for one line."""
        metrics = trainer.progress_bar_metrics
        return {
            name: f"{metrics[key]:,.0f}" if key == "tokens_per_second" else f"{metrics[key]:.3f}"
            for key, name in _SHOWN.items()
            if key in metrics
        }

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning says "Epoch 0/-2" where steps, not epochs, end the training.
        epochs = self.trainer.max_epochs
        return f"epoch {current_epoch + 1}" + (f"/{epochs}" if epochs and epochs > 0 else "")
