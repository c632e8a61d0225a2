"""The LightningModule that trains a network on next-token prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gecko_lab.carried_state import CarriedState
from gecko_lab.errors import ConfigurationError
from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.network_module import NetworkModule

_CARRIED = "carried_state"  # in a checkpoint


class LanguageModel(NetworkModule):
    """Next-token prediction on packed documents.

    A batch is `{"tokens": int64 [B, L + 1]}`; documents begin at the tokenizer's BOS. It may also hold

    - `mask` bool `[B, L]`: the targets that count, all by default;
    - `fresh` bool `[B]`: each row continues the same row of the batch before, but for those that are true. The network
      then begins from the state that it was left in, through which no gradient flows;
    - `sources` int64 `[B]`: where each row is from, to log the validation of each source by its name in the data's
      `source_names`.

    See `NetworkModule` for the options.
    """

    def setup(self, stage: str) -> None:
        """Begin without a carried state."""
        super().setup(stage)
        self._carried = CarriedState()
        if stage == "fit" and self.compile_layers and getattr(self.datamodule, "carries_state", False):
            raise ConfigurationError(
                "model.compile does not go with data.packing carried: the state counts its tokens, and every batch "
                "would be compiled anew; leave one of them out"
            )

    def token_losses(self, tokens: Tensor) -> Tensor:
        """Cross-entropy of each next token, in nats.

        Args:
            tokens: int64 `[B, L + 1]`.

        Returns:
            `[B, L]`.
        """
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        hidden, _ = self.network.hidden(inputs, document_starts=self._document_starts(inputs))
        return linear_cross_entropy(hidden, self.network.output.weight, targets, reduction="none")

    def _document_starts(self, inputs: Tensor) -> Tensor | None:
        return None if self.bos_id is None else inputs == self.bos_id

    def _hidden(self, inputs: Tensor, fresh: Tensor | None) -> Tensor:
        """What the output projection reads, `[B, L, D]`, from the carried state where rows continue."""
        starts = self._document_starts(inputs)
        if fresh is None:
            return self.network.hidden(inputs, document_starts=starts)[0]
        starts = torch.zeros_like(inputs, dtype=torch.bool) if starts is None else starts
        starts[:, 0] |= fresh
        hidden, state = self.network.hidden(inputs, self._carried.before(self.network, inputs, starts), starts)
        self._carried.after(state)
        return hidden

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The mean loss of a batch, over the targets that count."""
        targets, mask = batch["tokens"][:, 1:], batch.get("mask")
        hidden = self._hidden(batch["tokens"][:, :-1], batch.get("fresh"))
        if mask is not None:
            hidden, targets = hidden[mask], targets[mask]
        loss = linear_cross_entropy(hidden, self.network.output.weight, targets, reduction="mean")
        if "fresh" in batch and not self._finite_everywhere(loss):
            self._carried.after(None)  # what is not finite would stay in the state
        self.log("loss/train", loss.detach(), prog_bar=True)
        self.log("perplexity/train", loss.detach().exp())
        if (num_bytes := self._bytes(targets)) is not None:
            self.log("bits_per_byte/train", loss.detach() / math.log(2) / num_bytes.mean())
        return loss

    def _finite_everywhere(self, loss: Tensor) -> bool:
        """Whether the loss is finite on every rank: all keep the state or none, so that it stays of one shape."""
        finite = bool(torch.isfinite(loss))
        return finite if self._trainer is None else self.trainer.strategy.reduce_boolean_decision(finite, all=True)

    def _bytes(self, targets: Tensor) -> Tensor | None:
        """Bytes of text that each target stands for, float32 as `targets`; none where the tokenizer does not say."""
        table = getattr(self.datamodule, "token_bytes", None)
        return None if table is None else table.to(targets.device)[targets].float()

    def on_validation_epoch_start(self) -> None:
        """Empty the sums."""
        num_sources = max(len(getattr(self.datamodule, "source_names", ())), 1)
        # of each source: nats, tokens, bytes
        self._sums = torch.zeros(num_sources, 3, dtype=torch.float64, device=self.device)
        self._by_source = False

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """The loss of each token, `[B, L]`, for callbacks."""
        losses = self.token_losses(batch["tokens"])
        counted = torch.ones_like(losses) if (mask := batch.get("mask")) is None else mask.to(losses.dtype)
        num_bytes = self._bytes(batch["tokens"][:, 1:])
        num_bytes = torch.zeros_like(losses) if num_bytes is None else num_bytes
        of_row = torch.stack([(x * counted).double().sum(dim=1) for x in (losses, counted, num_bytes)], dim=1)
        self._by_source |= "sources" in batch
        sources = batch.get("sources", torch.zeros(len(of_row), dtype=torch.int64, device=of_row.device))
        self._sums.index_add_(0, sources, of_row)
        return losses

    def on_validation_epoch_end(self) -> None:
        """Log the means over every token of every device, and those of each source of a mixture.

        The mean over a mixture counts each token that was read once, whatever its source's weight in training.
        """
        gathered: Any = self._sums[None] if self.trainer.world_size == 1 else self.all_gather(self._sums)
        sums = gathered.sum(dim=0)
        stage = "test" if self.trainer.testing else "validation"
        self._log_means(stage, sums.sum(dim=0), total=True)
        if self._by_source:
            for name, of_source in zip(self.datamodule.source_names, sums, strict=True):
                self._log_means(f"{stage}/{name}", of_source, total=False)

    def _log_means(self, name: str, sums: Tensor, total: bool) -> None:
        nats, tokens, num_bytes = sums
        if tokens == 0:
            return
        self.log(f"loss/{name}", (nats / tokens).float(), prog_bar=total)
        if total:
            self.log(f"perplexity/{name}", (nats / tokens).exp().float())
        if num_bytes > 0:
            self.log(f"bits_per_byte/{name}", (nats / math.log(2) / num_bytes).float(), prog_bar=total)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """The tokens and the loss of each next one, in nats."""
        return {"tokens": batch["tokens"], "losses": self.token_losses(batch["tokens"])}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the carried state of all ranks, in the order of the rows."""
        if getattr(self.datamodule, "carries_state", False):  # also where there is none yet: it replaces a later one
            checkpoint[_CARRIED] = self._carried.leaves(self._rows_of_all_ranks)

    def _rows_of_all_ranks(self, tensor: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return tensor
        gathered: Any = self.all_gather(tensor.to(self.device))
        return gathered.flatten(0, 1)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network, and take this rank's rows of the carried state back."""
        super().on_load_checkpoint(checkpoint)
        if checkpoint.get(_CARRIED) is not None and getattr(self.datamodule, "carries_state", False):
            batch_size = self.datamodule.batch_size
            start = self.datamodule.replicas()[1] * batch_size
            self._carried.load(checkpoint[_CARRIED], start, start + batch_size)
