"""Lightning's training loop, with a point between two steps at which everything about a step is done.

Lightning saves checkpoints inside its hooks, where a step's metrics are not logged yet or its validation has not run,
and guesses on resuming which of the two is missing. Here a step ends (update, log, validation) and then the boundary
comes: a checkpoint that is written there, or whose states were taken there, says all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lightning import Trainer
from lightning.pytorch.loops.evaluation_loop import _EvaluationLoop
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.trainer.states import RunningStage, TrainerFn


class ValidationLoop(_EvaluationLoop):
    """Lightning's validation between steps.

    Attributes:
        on_results: called when all data has been read, before anything about the results is logged.
    """

    on_results: Callable[[], None] | None = None

    def on_run_end(self) -> Any:
        """Gather and log the results."""
        if self.on_results is not None:
            self.on_results()
        return super().on_run_end()


class SteppedEpochLoop(_TrainingEpochLoop):
    """Steps with boundaries between them.

    Attributes:
        on_boundary: called after each optimiser step, when all of it is done.
        validation_pending: a step was done, and the validation that is due after it is not.
        seconds_waited: for the loader, so far.
    """

    def __init__(self, trainer: Trainer, min_steps: int | None = None, max_steps: int = -1) -> None:
        super().__init__(trainer, min_steps, max_steps)
        self.on_boundary: Callable[[], None] | None = None
        self.val_loop: ValidationLoop = ValidationLoop(
            trainer, TrainerFn.FITTING, RunningStage.VALIDATING, verbose=False, inference_mode=False
        )
        self.validation_pending = False
        self.seconds_waited = 0.0
        self._fetch_begin = 0.0

    @property
    def is_between_steps(self) -> bool:
        """Whether the last batch ended a step, so that no gradients wait for more."""
        return not self._should_accumulate()

    @property
    def _is_validation_done(self) -> bool:
        return not self.validation_pending

    def reset(self) -> None:
        """Begin an epoch, or go on within one: there is nothing to guess about a checkpoint from a boundary."""
        if not self.restarting:
            super().reset()
            return
        for progress in (self.batch_progress, self.scheduler_progress, self.automatic_optimization.optim_progress):
            progress.reset_on_restart()
        self.restarting = False

    def advance(self, data_fetcher: Any) -> None:
        """Take a batch, unless a checkpoint was written after its step and before its validation."""
        if self.validation_pending:
            self.val_loop.restarting = False  # from its first batch
        else:
            super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: Any) -> None:
        """Validate where it is due; then everything about this batch is done."""
        self.validation_pending = self._should_check_val_fx(data_fetcher)
        super().on_advance_end(data_fetcher)
        self.validation_pending = False
        if self.on_boundary is not None and self.is_between_steps:
            self.on_boundary()

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        return self.validation_pending or super()._should_check_val_fx(data_fetcher)

    def _on_before_fetch(self) -> None:
        super()._on_before_fetch()
        self._fetch_begin = time.perf_counter()

    def _on_after_fetch(self) -> None:
        self.seconds_waited += time.perf_counter() - self._fetch_begin
        super()._on_after_fetch()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """What Lightning keeps, and whether a validation is due."""
        return super().on_save_checkpoint() | {"validation_pending": self.validation_pending}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """What Lightning keeps, and whether a validation is due."""
        super().on_load_checkpoint(state_dict)
        self.validation_pending = state_dict.get("validation_pending", False)


class SteppedFitLoop(_FitLoop):
    """Epochs of `SteppedEpochLoop`."""

    epoch_loop: SteppedEpochLoop

    @property
    def done(self) -> bool:
        """As Lightning's, but the last step's validation belongs to the training."""
        return not self.epoch_loop.validation_pending and super().done


def install(trainer: Trainer) -> SteppedFitLoop:
    """Put these loops in place of the trainer's, before it is used."""
    given = trainer.fit_loop
    loop = SteppedFitLoop(trainer, min_epochs=given.min_epochs, max_epochs=given.max_epochs)
    loop.epoch_loop = SteppedEpochLoop(trainer, given.epoch_loop.min_steps, given.epoch_loop.max_steps)
    trainer.fit_loop = loop
    return loop
