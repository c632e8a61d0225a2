"""Loss against position in the sequence: does more context help?"""

from __future__ import annotations

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gecko_lab.callbacks.tensorboard import writer


class LossByPosition(Callback):
    """Draw the validation loss against the position in the sequence, as an image at each validation.

    Args:
        num_bins: points of the curve.
    """

    def __init__(self, num_bins: int = 64) -> None:
        self.num_bins = num_bins
        self._sums: Tensor | None = None  # [L] float64
        self._rows = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._sums, self._rows = None, 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch's losses `[B, L]`; some tasks have no loss at every position."""
        if outputs is None:
            return
        sums = outputs.detach().double().sum(dim=0)
        self._sums = sums if self._sums is None else self._sums + sums
        self._rows += outputs.shape[0]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw."""
        board = writer(trainer)
        if board is None or self._sums is None or trainer.sanity_checking:
            return
        figure = self._draw(self._sums.cpu() / self._rows)
        board.add_figure("loss_by_position", figure, global_step=trainer.global_step)

    def _draw(self, losses: Tensor) -> Any:
        from matplotlib.figure import Figure

        length = len(losses)
        edges = torch.logspace(0, torch.log10(torch.tensor(float(length))).item(), self.num_bins + 1).long().unique()
        bins = [(int(a), int(b)) for a, b in zip(edges[:-1] - 1, edges[1:] - 1, strict=True)]
        bins[-1] = (bins[-1][0], length) if bins else (0, length)
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([(a + b + 1) / 2 for a, b in bins], [losses[a:b].mean().item() for a, b in bins], marker=".")
        axes.set(xscale="log", xlabel="position in the sequence (tokens)", ylabel="validation loss (nats per token)")
        axes.grid(alpha=0.3)
        return figure
