"""Loss against position in the sequence: does more context help?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gecko_lab.callbacks.skipped_steps import as_json
from gecko_lab.callbacks.tensorboard import writer
from gecko_lab.reports.position_losses import FILE_NAME, FORMAT, FORMAT_VERSION
from gecko_lab.runs.files import write_json


class LossByPosition(Callback):
    """Keep the validation loss against the position in the sequence, and draw it as an image at each validation.

    A training writes `loss_by_position.json` into its folder, the curves of the last and of the best validation, each

        {"step": 600, "loss": 1.87, "positions": [[1, 1], [2, 3], …], "losses": [5.1, 3.9, …]}

    with the positions (from 1, both ends included) that each loss is the mean over, in nats per token, and the mean
    over all. Bins grow geometrically. What is not a number is the word `nan` or `inf`.

    Args:
        num_bins: points of the curve.
    """

    def __init__(self, num_bins: int = 64) -> None:
        self.num_bins = num_bins
        self.curves: dict[str, dict[str, Any]] = {}  # last, best
        self._sums: Tensor | None = None  # [2, L] float64: nats, and the targets that they are the sum over

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, for a checkpoint."""
        return {"curves": self.curves}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember the curves before a checkpoint."""
        self.curves = dict(state_dict["curves"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the validations that will be made again."""
        self._write(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation."""
        self._sums = None

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch's losses `[B, L]`, where its `mask` counts them; some tasks have no loss at every position."""
        if outputs is None:
            return
        losses = outputs.detach().double()
        mask = batch.get("mask") if isinstance(batch, Mapping) else None
        counted = torch.ones_like(losses, dtype=torch.bool) if mask is None else mask
        sums = torch.stack([losses.where(counted, 0).sum(dim=0), counted.double().sum(dim=0)])
        self._sums = sums if self._sums is None else self._sums + sums

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep and draw."""
        if trainer.sanity_checking:
            return
        sums = self._of_all_ranks(trainer, pl_module)
        if sums is None:
            return
        curve = {"step": trainer.global_step, **binned(sums.cpu(), self.num_bins)}
        if trainer.state.fn == "fit":
            best = self.curves.get("best", curve)
            is_best = curve["loss"] < best["loss"] or math.isnan(best["loss"])
            self.curves = {"last": curve, "best": curve if is_best else best}
            self._write(trainer)
        board = writer(trainer)
        if board is not None:
            board.add_figure("loss_by_position", _draw(curve), global_step=trainer.global_step)

    def _of_all_ranks(self, trainer: Trainer, module: LightningModule) -> Tensor | None:
        """The sums over all ranks, of which some may have had no batch."""
        if trainer.world_size == 1:
            return self._sums
        own = 0 if self._sums is None else self._sums.shape[1]
        lengths: Any = module.all_gather(torch.tensor(own, device=module.device))
        length = int(lengths.max())
        if length == 0:
            return None
        sums = torch.zeros(2, length, dtype=torch.float64, device=module.device) if self._sums is None else self._sums
        gathered: Any = module.all_gather(sums)
        return gathered.sum(dim=0)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        path = Path(trainer.default_root_dir) / FILE_NAME
        if self.curves:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"format": FORMAT, "format_version": FORMAT_VERSION, **as_json(self.curves)})
        else:
            path.unlink(missing_ok=True)


def binned(sums: Tensor, num_bins: int) -> dict[str, Any]:
    """The mean loss of all targets and of each bin of positions.

    Args:
        sums: `[2, L]`: nats and counted targets at each position.
        num_bins: at most so many bins; fewer where they would hold less than one position.
    """
    length = sums.shape[1]
    edges = torch.logspace(0, math.log10(length + 1), num_bins + 1, dtype=torch.float64).round().long().unique()
    bins = [(a, b - 1) for a, b in itertools.pairwise(edges.tolist())]  # from 1, both included
    of_bin = torch.stack([sums[:, first - 1 : last].sum(dim=1) for first, last in bins])
    counted = (of_bin[:, 1] > 0).tolist()
    means = (of_bin[:, 0] / of_bin[:, 1]).tolist()
    nats, targets = sums.sum(dim=1).tolist()
    return {
        "loss": nats / targets if targets else math.nan,
        "positions": [list(ends) for ends, any_counted in zip(bins, counted, strict=True) if any_counted],
        "losses": [mean for mean, any_counted in zip(means, counted, strict=True) if any_counted],
    }


def _draw(curve: Mapping[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([(first + last) / 2 for first, last in curve["positions"]], curve["losses"], marker=".")
    axes.set(xscale="log", xlabel="position in the sequence (tokens)", ylabel="validation loss (nats per token)")
    axes.grid(alpha=0.3)
    return figure
