"""The LightningModule that trains and scores a network on a synthetic task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from gecko_lab.data.recall import RecallDataModule
from gecko_lab.errors import ConfigurationError
from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.network_module import NetworkModule
from gecko_lab.optimizer import OptimizerSettings
from gecko_lab.recall_accuracy import RecallAccuracy

_ROWS = 4096  # answers whose logits are in memory at once


class RecallTask(NetworkModule):
    """A synthetic task with exact answers, for ablations in minutes.

    Each validation logs `loss/validation`, `accuracy/validation` (share of right answers), `exact_match/validation`
    (share of samples whose answers are all right) and `accuracy/validation/distance_LOW-HIGH`: the accuracy where the
    information stands LOW to HIGH tokens before the question. An answer counts as right if its token has the highest
    logit, the right answers before it having been read. See `RecallDataModule` for a batch, `NetworkModule` for the
    other options.

    Args:
        loss_on: train on the `answers` alone, or on `all` next tokens, most of which cannot be known.
        stop_at_accuracy: end the training after a validation with at least that accuracy; by default go on.
    """

    data_class: ClassVar[type[RecallDataModule]] = RecallDataModule

    def __init__(
        self,
        *,
        network: dict | None = None,  # type: ignore[type-arg]  # with Any inside, jsonargparse builds classes
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008 — frozen
        compile: bool = False,
        bos_id: int | None = None,
        loss_on: Literal["answers", "all"] = "answers",
        stop_at_accuracy: float | None = None,
    ) -> None:
        super().__init__(network=network, optimizer=optimizer, compile=compile, bos_id=bos_id)
        if stop_at_accuracy is not None and not 0 < stop_at_accuracy <= 1:
            raise ConfigurationError(
                f"model.stop_at_accuracy: must lie above 0 and at most at 1, got {stop_at_accuracy}"
            )
        self.loss_on = loss_on
        self.stop_at_accuracy = stop_at_accuracy
        self.save_hyperparameters({"loss_on": loss_on, "stop_at_accuracy": stop_at_accuracy})
        self.scores = RecallAccuracy()

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        loss = self._losses(self._hidden(batch), batch, "mean")
        self.log("loss/train", loss.detach(), prog_bar=True)
        return loss

    def _hidden(self, batch: Mapping[str, Tensor]) -> Tensor:
        """What the output projection reads, `[B, L, D]`."""
        inputs = batch["tokens"][:, :-1]
        starts = None if self.bos_id is None else inputs == self.bos_id
        hidden, _ = self.network.hidden(inputs, document_starts=starts)
        return hidden

    def _losses(self, hidden: Tensor, batch: Mapping[str, Tensor], reduction: Literal["mean", "none"]) -> Tensor:
        """Cross-entropy in nats, a scalar; or that of each answer `[N]`, or of each token `[B, L]`."""
        targets = batch["tokens"][:, 1:]
        if self.loss_on == "answers":
            hidden, targets = hidden[batch["answers"]], targets[batch["answers"]]
        return linear_cross_entropy(hidden, self.network.output.weight, targets, reduction=reduction)

    def _predictions(self, hidden: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """The likeliest token where there is an answer, else −1; int64 `[B, L]`."""
        rows = hidden[batch["answers"]].split(_ROWS)
        predictions = torch.full_like(batch["distances"], -1)
        predictions[batch["answers"]] = torch.cat([self.network.output(row).argmax(dim=-1) for row in rows])
        return predictions

    def on_validation_epoch_start(self) -> None:
        """Forget the last validation."""
        self.scores.reset()

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor | None:
        """The loss of each token `[B, L]` where all count, for callbacks; else none."""
        hidden = self._hidden(batch)
        losses = self._losses(hidden, batch, "none")
        right = self._predictions(hidden, batch) == batch["tokens"][:, 1:]
        self.scores.update(losses, right, batch["distances"])
        return losses if self.loss_on == "all" else None

    def on_validation_epoch_end(self) -> None:
        """Log the scores of all devices; stop where they are good enough."""
        scores = self.scores.compute()
        stage = "test" if self.trainer.testing else "validation"
        shown = {f"{name}/{stage}": scores[name] for name in ("loss", "accuracy", "exact_match") if name in scores}
        by_distance = {f"accuracy/{stage}/distance_{bin}": value for bin, value in scores["distances"].items()}
        for name, value in (shown | by_distance).items():
            # They are those of all devices already; without `sync_dist` Lightning warns that they might not be
            self.log(name, value.float(), prog_bar=name in shown, sync_dist=True)
        fitting = self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking
        if fitting and self.stop_at_accuracy is not None and scores["accuracy"] >= self.stop_at_accuracy:
            self.trainer.should_stop = True

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Any]:
        """The batch, and the likeliest token where there is an answer (−1 elsewhere), int64 `[B, L]`."""
        return {**batch, "predictions": self._predictions(self._hidden(batch), batch)}
