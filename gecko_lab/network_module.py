"""The LightningModule around a network: building it, its optimiser, its schedule, how long it trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from gecko_lab.assembly import assemble, resolve
from gecko_lab.durations import in_steps
from gecko_lab.errors import ConfigurationError
from gecko_lab.gradients import clip_gradients, gradient_scale
from gecko_lab.network import Network
from gecko_lab.optimizer import OptimizerSettings, build_optimizer, learning_rate_factor


class NetworkModule(L.LightningModule):
    """A network with its optimiser, schedule and length of training; a subclass says what is learned.

    Args:
        network: the keys of `model.network`: size, layer and its parts, vocab_size … (`gecko-lab components` lists
            them). The vocabulary is by default that of the data's tokenizer.
        optimizer: AdamW, its schedule and its batch.
        compile: compile each layer with `torch.compile`.
        bos_id: the token that begins a document; by default the data's.
    """

    network: Network

    def __init__(
        self,
        *,
        network: dict | None = None,  # type: ignore[type-arg]  # with Any inside, jsonargparse builds classes
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008 — frozen
        compile: bool = False,
        bos_id: int | None = None,
    ) -> None:
        super().__init__()
        self._tree = resolve(network)
        # The type is for the command line; a checkpoint gives a plain mapping back.
        self.settings = OptimizerSettings(**optimizer) if isinstance(optimizer, Mapping) else optimizer
        self.settings.check()
        self.compile_layers = compile
        self.save_hyperparameters(
            {"network": self._tree, "optimizer": asdict(self.settings), "compile": compile, "bos_id": bos_id}
        )
        with torch.device("meta"):  # sizes that clash are found here, before any work
            assemble({**self._tree, "vocab_size": self._tree["vocab_size"] or 1})

    @property
    def bos_id(self) -> int | None:
        """The token that begins a document; none: the stream is one document."""
        return self.hparams["bos_id"]

    def configure_model(self) -> None:
        """Build the network, once; the data's tokenizer fills in what the configuration leaves open."""
        if hasattr(self, "network"):
            return
        data = self.datamodule
        if self._tree["vocab_size"] is None:
            if data is None:
                raise ConfigurationError("model.network.vocab_size: how many tokens are there? There is no data to ask")
            self._tree["vocab_size"] = data.vocab_size
        elif data is not None and self._tree["vocab_size"] < data.vocab_size:
            raise ConfigurationError(
                f"model.network.vocab_size: {self._tree['vocab_size']} tokens, but the tokenizer has {data.vocab_size}"
            )
        if self.bos_id is None and data is not None:
            self.hparams["bos_id"] = data.bos_id
        self.network = assemble(self._tree)
        if self.compile_layers:
            for layer in self.network.layers:
                layer.compile(dynamic=False)  # batches are of one length; with symbolic lengths inductor fails

    @property
    def datamodule(self) -> Any:
        """The datamodule, if a trainer has one."""
        return getattr(self._trainer, "datamodule", None) if self._trainer is not None else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build the network before its weights arrive, where no trainer has done so."""
        self.configure_model()

    def forward(self, tokens: Tensor, state: Any = None, document_starts: Tensor | None = None) -> tuple[Tensor, Any]:
        """See `Network.forward`."""
        logits, state = self.network(tokens, state, document_starts)
        return logits, state

    def setup(self, stage: str) -> None:
        """Turn the batch in tokens into accumulated batches, and the duration into steps.

        With a batch in tokens, `trainer.val_check_interval` counts optimiser steps.
        """
        if stage != "fit":
            return
        if self.settings.batch_tokens is not None:
            tokens = self._tokens_per_batch()
            steps, rest = divmod(self.settings.batch_tokens, tokens)
            if rest or steps < 1:
                raise ConfigurationError(
                    f"model.optimizer.batch_tokens: {self.settings.batch_tokens} is not a multiple of the {tokens} "
                    f"tokens that all devices read at once (batch size × sequence length × devices)"
                )
            interval = self.trainer.val_check_interval
            if isinstance(interval, int):  # Lightning counts batches; here the user thinks of optimiser steps
                self.trainer.val_check_interval = interval * steps // self.trainer.accumulate_grad_batches
            self.trainer.accumulate_grad_batches = steps
        if self.settings.duration is not None and self.trainer.max_steps < 0:
            self.trainer.fit_loop.epoch_loop.max_steps = self._in_steps(self.settings.duration, "duration")

    def _tokens_per_batch(self) -> int:
        data = self.datamodule
        if data is None:
            raise ConfigurationError("durations and batches in tokens need a datamodule that says its batch")
        return data.batch_size * data.sequence_length * self.trainer.world_size

    def tokens_per_step(self) -> int:
        """Tokens that one optimiser step reads, over all devices."""
        return self._tokens_per_batch() * self.trainer.accumulate_grad_batches

    def _in_steps(self, duration: Any, name: str) -> int:
        tokens = self.tokens_per_step() if isinstance(duration, str) else 1
        return in_steps(duration, tokens, f"model.optimizer.{name}")

    def training_steps(self) -> int:
        """Optimiser steps of the whole training.

        Not `trainer.estimated_stepping_batches`: touching it makes Lightning forget where the loader stood on resume.
        """
        if self.settings.duration is not None:
            return self._in_steps(self.settings.duration, "duration")
        if self.trainer.max_steps >= 0:
            return self.trainer.max_steps
        if self.trainer.max_epochs is None or self.trainer.max_epochs < 0:
            raise ConfigurationError(
                "how long is the training? The learning-rate schedule needs trainer.max_steps, trainer.max_epochs "
                "or model.optimizer.duration"
            )
        batches = len(self.datamodule.train_dataloader()) if self.datamodule is not None else 0
        if isinstance(limit := self.trainer.limit_train_batches, int):
            batches = min(batches, limit)
        else:
            batches = int(batches * limit)
        return self.trainer.max_epochs * -(-batches // self.trainer.accumulate_grad_batches)

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule, one update a step."""
        optimizer = build_optimizer(self.network, self.settings)
        settings = self.settings
        factor = learning_rate_factor(
            settings.schedule,
            1 if settings.schedule == "constant" else self.training_steps(),
            self._in_steps(settings.warmup, "warmup"),
            settings.decay,
            settings.final_lr_ratio,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip by norm, `trainer.gradient_clip_val` first, and log the norm before clipping.

        Callbacks with a hook `on_gradient_norm(trainer, pl_module, optimizer, norm)` then judge the step.
        """
        limit = self.settings.gradient_clip if gradient_clip_val is None else float(gradient_clip_val)
        norm = clip_gradients(self.network.parameters(), limit, gradient_scale(self.trainer, optimizer))
        self.log("gradient_norm", norm)
        self.log("learning_rate", optimizer.param_groups[0]["lr"])
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if hasattr(callback, "on_gradient_norm"):
                callback.on_gradient_norm(self.trainer, self, optimizer, norm)
