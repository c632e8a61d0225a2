"""When checkpoints are written, which are kept, and that one is written before a run leaves."""

from __future__ import annotations

import copy
import errno
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer import call

from gecko_lab.durations import Duration, read
from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.loops import SteppedFitLoop
from gecko_lab.runs.signals import Interrupted, Signals

_SLOW_STEP_SECONDS = 0.25  # the states that a step may have to be left with cost about 1 ms to take


class StorageError(UserError):
    """The run's folder cannot be written any more."""


class Checkpoints(Checkpoint):
    """Write checkpoints between two steps: by interval, when validation is best, at the end, and when asked to stop.

    Each is complete, or is not there. On SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 (a cluster's warning) the step is
    finished, one is written, and the run ends; a step or validation that takes too long for that is left where it is,
    and will be done again.

    Args:
        every: steps, tokens or minutes from one to the next, or several of them: `500`, `10 minutes`,
            `[50M tokens, 30 minutes]`; none: only when best and at the end.
        keep_last: how many of the newest to keep.
        keep_best: how many of the best to keep.
        monitor: the metric that says which is best.
        mode: whether less or more of it is better.
    """

    def __init__(
        self,
        every: Duration | list[Duration] | None = "15 minutes",
        keep_last: int = 2,
        keep_best: int = 1,
        monitor: str = "loss/validation",
        mode: Literal["min", "max"] = "min",
    ) -> None:
        durations = every if isinstance(every, list) else [] if every is None else [every]
        self.intervals = [read(duration, "checkpoint.every") for duration in durations]
        if any(interval.number <= 0 for interval in self.intervals):
            raise ConfigurationError(f"checkpoint.every: an interval must be longer than nothing, got {every!r}")
        for name, value, least in (("keep_last", keep_last, 1), ("keep_best", keep_best, 0)):
            if value < least:
                raise ConfigurationError(f"checkpoint.{name}: must be at least {least}, got {value}")
        self.keep_last, self.keep_best, self.monitor, self.mode = keep_last, keep_best, monitor, mode
        self.best: list[tuple[float, int]] = []  # (value, step), the best first
        self.on_written: Callable[[int], None] | None = None
        self.signals = Signals()
        self._validated: float | None = None
        self._written_step = -1
        self._written_time = self._boundary_time = time.monotonic()
        self._snapshot: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Which checkpoints are the best so far."""
        return {"best": [[value, step] for value, step in self.best]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on comparing with the best so far."""
        self.best = [(float(value), int(step)) for value, step in state_dict["best"]]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End what a process that died was at: its names, links and removals."""
        if getattr(trainer, "fast_dev_run", False):
            return
        self._folder = CheckpointFolder(Path(trainer.strategy.broadcast(trainer.default_root_dir)) / "checkpoints")
        if trainer.is_global_zero and (steps := self._folder.steps()):
            self._folder.link("last.ckpt", steps[-1])
            self._prune(steps[-1])
        if trainer.is_global_zero:
            self._folder.discard_asides()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch."""
        if getattr(trainer, "fast_dev_run", False):
            return
        if not isinstance(trainer.fit_loop, SteppedFitLoop):
            raise ConfigurationError("Checkpoints needs gecko_lab.runs.loops.install(trainer) before the training")
        self._written_step = trainer.global_step if trainer.ckpt_path else -1
        self._written_time = self._boundary_time = time.monotonic()
        self._tokens_per_step: int = getattr(pl_module, "tokens_per_step", lambda: 0)()
        trainer.fit_loop.epoch_loop.on_boundary = lambda: self._at_boundary(trainer)
        trainer.fit_loop.epoch_loop.val_loop.on_results = self.signals.shield
        alone = trainer.world_size == 1
        self.signals.install(alarm=alone)
        self._snapshot = self._small_states(trainer) if alone else None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the metric."""
        if self.keep_best == 0 or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(name for name in trainer.callback_metrics if "/validation" in name))
            raise ConfigurationError(f"checkpoint.monitor: validation logs no {self.monitor!r}; it logs {known}")
        if not trainer.sanity_checking:
            # of the main process: ranks that disagreed on which is best would wait for one another for ever
            self._validated = float(trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor])))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A validation may be left until its results are logged, and is left if the time of grace is over."""
        if trainer.sanity_checking or not isinstance(trainer.fit_loop, SteppedFitLoop):
            return
        if trainer.fit_loop.epoch_loop.is_between_steps and trainer.world_size == 1:
            self._snapshot = self._small_states(trainer)
        self.signals.unshield()
        self.signals.raise_if_expired()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """A batch may be left until the weights change, and is left if the time of grace is over."""
        self.signals.unshield()
        self.signals.raise_if_expired()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """The weights are about to change; from here on the step is done to its end, with what is logged about it."""
        self.signals.shield()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last one."""
        if not getattr(trainer, "fast_dev_run", False):
            self.signals.restore()  # what remains to be done is short
            self._write(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write one where the time of grace ended inside a step or a validation."""
        try:
            if isinstance(exception, Interrupted) and exception.step is None:
                self.signals.shield()
                if self._snapshot is not None:
                    self._write(trainer, self._snapshot)
                exception.step = self._written_step if self._written_step >= 0 else None
        finally:
            self.signals.restore()  # what remains to be done is short

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self.signals.restore()

    def _at_boundary(self, trainer: Trainer) -> None:
        self.signals.shield()
        if trainer.global_step == self._written_step:  # then its validation was pending, and is not any more
            self._written_step = -1
        now = time.monotonic()
        slow = now - self._boundary_time > _SLOW_STEP_SECONDS
        self._boundary_time = now
        requested = self.signals.requested
        minutes_over, stop = self._agree(trainer, self._minutes_over(now), requested is not None)
        if self._is_among_best(trainer.global_step) or stop or minutes_over or self._interval_over(trainer):
            self._write(trainer)
        # a step that takes long, or has several batches, may have to be left in its middle
        keep = (slow or trainer.accumulate_grad_batches > 1) and trainer.world_size == 1 and not stop
        self._snapshot = self._small_states(trainer) if keep else None
        if stop:
            raise Interrupted(requested or signal.SIGTERM, trainer.global_step)
        self.signals.unshield()

    def _agree(self, trainer: Trainer, *decisions: bool) -> list[bool]:
        """What holds on any rank: clocks and signals differ."""
        if trainer.world_size == 1:
            return list(decisions)
        return [trainer.strategy.reduce_boolean_decision(decision, all=False) for decision in decisions]

    def _minutes_over(self, now: float) -> bool:
        elapsed = (now - self._written_time) / 60
        return any(interval.unit == "minutes" and elapsed >= interval.number for interval in self.intervals)

    def _interval_over(self, trainer: Trainer) -> bool:
        """Whether this step reaches a multiple of an interval in steps or tokens."""
        step = trainer.global_step
        sizes = {"steps": 1, "tokens": self._tokens_per_step}
        return any(
            step * sizes[interval.unit] // interval.number > (step - 1) * sizes[interval.unit] // interval.number
            for interval in self.intervals
            if interval.unit in sizes
        )

    def _is_among_best(self, step: int) -> bool:
        """Take the last validation into the list of the best; whether it belongs there."""
        value, self._validated = self._validated, None
        if value is None or math.isnan(value):
            return False
        sign = 1 if self.mode == "min" else -1
        ranked = sorted([*self.best, (value, step)], key=lambda pair: (sign * pair[0], pair[1]))
        self.best = ranked[: self.keep_best]
        return (value, step) in self.best

    def _write(self, trainer: Trainer, states: dict[str, Any] | None = None) -> None:
        """Write the checkpoint of this step, on all ranks together, and remove those that are not kept.

        Args:
            trainer: between two steps.
            states: what replaces the states that have moved on since the last boundary.
        """
        step = trainer.global_step
        if step == self._written_step:
            return
        aside = self._folder.aside(step)
        try:
            if trainer.is_global_zero:
                self._folder.path.mkdir(parents=True, exist_ok=True)
            for logger in trainer.loggers:
                logger.save()  # what was logged until here is not logged again
            checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
            trainer.strategy.save_checkpoint(checkpoint | (states or {}), aside)
            trainer.strategy.barrier("checkpoint written")
            if trainer.is_global_zero:
                self._folder.commit(step)
                self._prune(step)
        except OSError as error:
            self._folder.discard_asides()
            raise cannot_write(self._folder.path.parent, error) from error
        trainer.strategy.barrier("checkpoint complete")
        self._written_step, self._written_time = step, time.monotonic()
        if self.on_written is not None and trainer.is_global_zero:
            self.on_written(step)

    def _prune(self, step: int) -> None:
        steps = self._folder.steps()
        until_now = [one for one in steps if one <= step]
        kept = {*until_now[-self.keep_last :], *(best for _, best in self.best)}
        for one in steps:
            if one not in kept:
                self._folder.remove(one)
        if self.best and self.best[0][1] in steps:
            self._folder.link("best.ckpt", self.best[0][1])

    def _small_states(self, trainer: Trainer) -> dict[str, Any]:
        """All of a checkpoint but weights and optimiser, which only an optimiser step changes."""
        states: dict[str, Any] = {
            "loops": trainer._checkpoint_connector._get_loops_state_dict(),
            "callbacks": call._call_callbacks_state_dict(trainer),
            "lr_schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        }
        data: Any = getattr(trainer, "datamodule", None)
        if data is not None:
            states[type(data).__qualname__] = data.state_dict()
        call._call_callbacks_on_save_checkpoint(trainer, states)
        call._call_lightning_module_hook(trainer, "on_save_checkpoint", states)
        return copy.deepcopy(states)


def cannot_write(run: Path, error: OSError) -> StorageError:
    """What to tell where the run's folder cannot be written."""
    newest = CheckpointFolder(run / "checkpoints").steps()
    kept = f"the checkpoint of step {newest[-1]:,} is whole" if newest else "no checkpoint has been written"
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "make room and give the same command again" if full else "the same command goes on where it can be written"
    return StorageError(f"{run} cannot be written: {error.strerror or error}; {kept}; {remedy}")
