"""What a checkpoint must hold beside Lightning's own states for training to go on exactly."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gecko_lab.errors import ConfigurationError
from gecko_lab.runs.randomness import random_state, set_random_state


class ExactResume(Callback):
    """Keep the random numbers of every rank, and refuse to go on where the steps would not be the same steps.

    The position in the data is the datamodule's (`PositionedDataModule`). On another number of devices the same
    tokens make a step, if batches are accumulated to it (`model.optimizer.batch_tokens`): then the counters of batches
    are converted, and the order of the samples goes on where it stopped.
    """

    def __init__(self) -> None:
        self._random_states: Tensor | None = None  # uint8 [world, bytes]

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the random numbers, and what one step is."""
        device = trainer.strategy.root_device
        state = random_state(device)
        if trainer.world_size > 1:
            gathered: Tensor = trainer.strategy.all_gather(state.to(device))
            state = gathered.cpu()
        checkpoint["random_states"] = state.view(trainer.world_size, -1)
        checkpoint["batches_per_step"] = trainer.accumulate_grad_batches
        checkpoint["tokens_per_step"] = self._tokens_per_step(pl_module)
        checkpoint["data"] = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare and convert.

        Raises:
            ConfigurationError: steps would have other tokens, or the data is not what it was.
        """
        if trainer.state.fn != "fit" or "random_states" not in checkpoint:
            return
        then, now = checkpoint["tokens_per_step"], self._tokens_per_step(pl_module)
        if then != now:
            raise ConfigurationError(
                f"the checkpoint was trained with {then:,} tokens a step, and now a step has {now:,}: choose "
                "data.batch_size or model.optimizer.batch_tokens so that it is the same on these devices"
            )
        data = getattr(getattr(trainer, "datamodule", None), "fingerprint", None)
        if checkpoint["data"] != data:
            raise ConfigurationError(
                "the training data is not what the checkpoint was trained on (sources, their content or their "
                "order): put it back, or start over beside this run with --fresh"
            )
        self._random_states = checkpoint["random_states"]
        self._convert(checkpoint["loops"]["fit_loop"], checkpoint["batches_per_step"], trainer.accumulate_grad_batches)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Put the random numbers back, after everything that the start of a program draws."""
        self._put_back(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put them back where training goes on with a validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._put_back(trainer)

    def _put_back(self, trainer: Trainer) -> None:
        if self._random_states is not None:
            state = self._random_states[trainer.global_rank % len(self._random_states)]
            set_random_state(state, trainer.strategy.root_device)
            self._random_states = None

    @staticmethod
    def _tokens_per_step(module: LightningModule) -> int:
        return int(getattr(module, "tokens_per_step", lambda: 0)())

    @staticmethod
    def _convert(loops: dict[str, Any], then: int, now: int) -> None:
        """Batches counted at `then` to a step become batches counted at `now`."""
        progress = loops["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            for name, count in counts.items():
                counts[name] = count * now // then
