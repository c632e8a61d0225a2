"""Predictions, kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter


class Predictions(BasePredictionWriter):
    """Write what `predict` computes into the run's folder: `predictions-RANK.safetensors`.

    `tokens` int64 `[N, L + 1]` and `losses` `[N, L]`, the cross-entropy of each next token in nats.
    """

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: Trainer, pl_module: LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write one file a process, whole or not at all."""
        from safetensors.torch import save_file

        if not predictions or getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"predictions-{trainer.global_rank}.safetensors"
        aside = path.with_suffix(".partial")
        save_file({name: torch.cat([batch[name] for batch in predictions]).cpu() for name in predictions[0]}, aside)
        aside.rename(path)
        print(f"predictions  {path}")
