"""Tokens, tokens per second, model FLOP/s and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from gecko_lab.energy import EnergyMeter
from gecko_lab.runs.loops import SteppedFitLoop


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory held at once: of the device where it is a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Throughput(Callback):
    """Log how much has been read and how fast.

    `tokens`, `tokens_per_second`, `model_flops_per_second`, `peak_memory_bytes`, `loader_wait`, the share of the time
    in which training waited for data, and, where it can be read (`gecko_lab.energy`), `energy_joules_per_token`: of
    the main process' device, and of everything that runs where that is a processor. FLOPs are counted from what each
    component computes (`Slot.flops_per_token`), three times the forward pass for a training step; recomputation under
    activation checkpointing is not counted as work. Validation time is left out.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self._start: float | None = None
        self._since = 0
        self._waited = 0.0
        self._meter: EnergyMeter | None = None

    def state_dict(self) -> dict[str, Any]:
        """The tokens read, for a checkpoint."""
        return {"tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where a checkpoint stood."""
        self.tokens = int(state_dict["tokens"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        self._meter = EnergyMeter(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a new interval."""
        self._start = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, and log an interval that is over."""
        batch_size, width = batch["tokens"].shape
        count = batch_size * (width - 1) * trainer.world_size
        self.tokens += count
        pl_module.log("tokens", torch.tensor(self.tokens, dtype=torch.float64))
        now = time.perf_counter()
        if self._start is None:  # the first batch of an interval only starts the clock
            self._restart(trainer, now)
            return
        self._since += count
        if now == self._start:
            return
        speed = self._since / (now - self._start)
        pl_module.log("tokens_per_second", speed, prog_bar=True)
        network: Any = pl_module.network
        pl_module.log("model_flops_per_second", 3 * network.flops_per_token(width - 1) * speed)
        pl_module.log("peak_memory_bytes", float(peak_memory_bytes(pl_module.device)))
        if isinstance(trainer.fit_loop, SteppedFitLoop):
            waited = trainer.fit_loop.epoch_loop.seconds_waited - self._waited
            pl_module.log("loader_wait", waited / (now - self._start))
        if self._meter is not None and self._meter.is_readable:
            # a GPU's counter is its own, a processor's is that of all devices of the machine
            measured = 1 if pl_module.device.type == "cuda" else trainer.num_devices
            tokens = self._since * measured / trainer.world_size
            pl_module.log("energy_joules_per_token", self._meter.joules() / tokens)
        if now - self._start > 10:
            self._restart(trainer, now)

    def _restart(self, trainer: Trainer, now: float) -> None:
        self._start, self._since = now, 0
        if self._meter is not None:
            self._meter.reset()
        if isinstance(trainer.fit_loop, SteppedFitLoop):
            self._waited = trainer.fit_loop.epoch_loop.seconds_waited
