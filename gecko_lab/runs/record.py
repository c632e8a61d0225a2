"""`run.json` while a run trains: what it is trained on, how far it is, what it has reached."""

from __future__ import annotations

import platform
import time
from typing import Any

import lightning
import torch
from lightning import Callback, LightningModule, Trainer

import gecko_lab
from gecko_lab.cost import network_cost
from gecko_lab.machine import commit, processor_name
from gecko_lab.runs.checkpoints import Checkpoints
from gecko_lab.runs.folder import RunFolder


class Record(Callback):
    """Keep `run.json` up to date: at the start, at each checkpoint and validation, and at the end.

    Args:
        run: the run's folder; only the main process has it.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self._begin = time.monotonic()
        self._seconds_before = float((run.record.get("progress") or {}).get("seconds", 0.0))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down the environment and what training costs."""
        module, data = self._of(trainer)
        cost = network_cost(module.network, data.sequence_length)
        self.run.record["starts"][-1]["environment"] = environment(trainer)
        self.run.update(
            cost={
                "parameters": cost.parameters,
                "flops_per_token": cost.flops_per_token,
                "state_bytes": cost.state_bytes,
                "tokens_per_step": module.tokens_per_step(),
            },
            data=data.fingerprint,
        )
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Checkpoints):
                callback.on_written = lambda step: self.run.update(progress=self._progress(trainer, step))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down where this start of the run begins."""
        self.run.record["starts"][-1]["step"] = trainer.global_step
        self.run.update(progress=self._progress(trainer, trainer.global_step))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down what validation says."""
        if not trainer.sanity_checking:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if "/validation" in name}
            self.run.update(metrics=metrics | {"step": trainer.global_step})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down that the run is finished."""
        self.run.end("finished", progress=self._progress(trainer, trainer.global_step))

    def _progress(self, trainer: Trainer, step: int) -> dict[str, Any]:
        module, _ = self._of(trainer)
        return {
            "step": step,
            "steps": module.training_steps(),
            "tokens": step * module.tokens_per_step(),
            "seconds": round(self._seconds_before + time.monotonic() - self._begin, 1),
        }

    @staticmethod
    def _of(trainer: Trainer) -> tuple[Any, Any]:
        return trainer.lightning_module, getattr(trainer, "datamodule", None)


def environment(trainer: Trainer) -> dict[str, Any]:
    """Versions and hardware of this process."""
    device = trainer.strategy.root_device
    return {
        "gecko_lab": gecko_lab.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "devices": trainer.world_size,
        "precision": str(trainer.precision),
        "threads": torch.get_num_threads(),
    }
