"""The LightningModule that trains a network on next-token prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.network_module import NetworkModule


class LanguageModel(NetworkModule):
    """Next-token prediction on packed documents.

    A batch is `{"tokens": int64 [B, L + 1]}`; documents begin at the tokenizer's BOS. See `NetworkModule` for the
    options.
    """

    def token_losses(self, tokens: Tensor) -> Tensor:
        """Cross-entropy of each next token, in nats.

        Args:
            tokens: int64 `[B, L + 1]`.

        Returns:
            `[B, L]`.
        """
        return self._loss(tokens, "none")

    def _loss(self, tokens: Tensor, reduction: Any) -> Tensor:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        starts = None if self.bos_id is None else inputs == self.bos_id
        hidden, _ = self.network.hidden(inputs, document_starts=starts)
        return linear_cross_entropy(hidden, self.network.output.weight, targets, reduction=reduction)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch."""
        loss = self._loss(batch["tokens"], "mean")
        perplexity = loss.detach().exp()
        self.log("loss/train", loss.detach(), prog_bar=True)
        self.log("perplexity/train", perplexity)
        if (bytes_per_token := self._bytes_per_token(batch["tokens"][:, 1:])) is not None:
            self.log("bits_per_byte/train", loss.detach() / math.log(2) / bytes_per_token)
        return loss

    def _bytes_per_token(self, targets: Tensor) -> Tensor | None:
        """Mean bytes of text that a target stands for; none where the tokenizer does not say."""
        table = getattr(self.datamodule, "token_bytes", None)
        return None if table is None else table.to(targets.device)[targets].float().mean()

    def on_validation_epoch_start(self) -> None:
        """Empty the sums."""
        self._sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # nats, tokens, bytes

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of each token, `[B, L]`, for callbacks."""
        losses = self.token_losses(batch["tokens"])
        count = torch.tensor(losses.numel(), device=losses.device)
        bytes_per_token = self._bytes_per_token(batch["tokens"][:, 1:])
        num_bytes = torch.zeros((), device=losses.device) if bytes_per_token is None else bytes_per_token * count
        self._sums += torch.stack((losses.sum().double(), count.double(), num_bytes.double()))
        return losses

    def on_validation_epoch_end(self) -> None:
        """Log the means over every token of every device."""
        gathered: Any = self._sums[None] if self.trainer.world_size == 1 else self.all_gather(self._sums)
        nats, tokens, num_bytes = gathered.sum(dim=0)
        if tokens == 0:
            return
        stage = "test" if self.trainer.testing else "validation"
        self.log(f"loss/{stage}", (nats / tokens).float(), prog_bar=True)
        self.log(f"perplexity/{stage}", (nats / tokens).exp().float())
        if num_bytes > 0:
            self.log(f"bits_per_byte/{stage}", (nats / math.log(2) / num_bytes).float(), prog_bar=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The tokens and the loss of each next one, in nats."""
        return {"tokens": batch["tokens"], "losses": self.token_losses(batch["tokens"])}
