"""Steps that are not finite are left out, and a run that has only such steps stops and says where it broke."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from gecko_lab.callbacks.skipped_steps import SkippedSteps, as_json
from gecko_lab.callbacks.spike_score import SpikeScore
from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.gradients import drop_gradients
from gecko_lab.nonfinite import NonFinite, find_nonfinite
from gecko_lab.runs.files import write_json

REPORT_FILE = "stability-report.json"


class TrainingDiverged(UserError):
    """Too many steps in a row had a loss or a gradient that is not finite."""


@dataclass
class _MicroBatch:
    """What was trained on since the last optimiser step, one batch of it.

    Attributes:
        batch: as it came to `training_step`.
        index: its `batch_idx`.
        random_states: uint8, PyTorch's random numbers before it: of the processor and of the GPU, if there is one.
        loss: what the backward pass began from; none before.
    """

    batch: Any
    index: int
    random_states: tuple[Tensor, Tensor | None]
    loss: Tensor | None = None


class Stability(Callback):
    """Leave out steps with a loss or gradient that is not finite; stop after several in a row; log spike scores.

    A step that is left out changes neither weights nor moments; schedule, data and step count go on. It is written to
    `skipped.jsonl` with the samples it was on, and counted in `skipped_steps`. After `patience` of them in a row the
    last is run again to find the first module that makes a non-finite value: `stability-report.json`, and training
    stops. `spike_score/loss` and `spike_score/gradient_norm` (of this rank's loss, of the whole gradient) are
    percentages, see `SpikeScore`.

    Every rank decides by the norm of the whole gradient, which is the same on all; a loss that is not finite makes the
    gradient so. Reading it waits for the device, once a step. In `16-mixed` the steps by which the loss scale is found
    are not counted: those of a finite loss, as long as the scale is above 1.

    Args:
        patience: steps in a row to leave out before stopping. One may be a bad sample; as the weights stay and the
            data goes on, three mean that the weights are at fault, which no further batch will mend.
        window: steps that the spike scores average over.
        threshold: standard deviations from that average that make a spike.
    """

    def __init__(self, *, patience: int = 3, window: int = 1000, threshold: float = 7.0) -> None:
        for name, value, least in (("patience", patience, 1), ("window", window, 2)):
            if value < least:
                raise ConfigurationError(f"stability.{name}: must be at least {least}, got {value}")
        self.patience = patience
        self.skipped, self.in_a_row = 0, 0
        self.scores = {name: SpikeScore(window, threshold) for name in ("loss", "gradient_norm")}
        self._micro_batches: list[_MicroBatch] = []  # since the last optimiser step
        self._carried: Any = None  # the state that the module carried before the first of them

    def state_dict(self) -> dict[str, Any]:
        """The counts and the scores' windows, for a checkpoint."""
        scores = {name: score.state_dict() for name, score in self.scores.items()}
        return {"skipped": self.skipped, "in_a_row": self.in_a_row, "scores": scores}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint stood."""
        self.skipped, self.in_a_row = int(state_dict["skipped"]), int(state_dict["in_a_row"])
        for name, score in self.scores.items():
            score.load_state_dict(state_dict["scores"][name])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the steps that will be taken again."""
        self._micro_batches = []
        if trainer.is_global_zero and not _leaves_nothing(trainer):
            SkippedSteps(Path(trainer.default_root_dir)).keep_until(trainer.global_step)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keep what is needed to run the batch again."""
        if not self._micro_batches:
            self._carried = copy.copy(getattr(pl_module, "_carried", None))
        device = pl_module.device
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        self._micro_batches.append(_MicroBatch(batch, batch_idx, (torch.get_rng_state(), on_device)))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Let a loss that is not finite make every gradient so: then all ranks see it, without asking one another."""
        value = loss.detach()
        self._micro_batches[-1].loss = value
        loss.register_hook(lambda gradient: gradient * (1 + 0 * value))

    def on_gradient_norm(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any, norm: Tensor) -> None:
        """Judge a step between backward pass and optimiser; `NetworkModule` calls this.

        Raises:
            TrainingDiverged: on every rank, when `patience` steps in a row were not finite.
        """
        micro_batches = [batch for batch in self._micro_batches if batch.loss is not None]
        self._micro_batches = []
        if not micro_batches:  # no training step gave a loss
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else float(scaler.get_scale())
        losses = [batch.loss.float().to(norm.device) for batch in micro_batches if batch.loss is not None]
        *scaled, gradient_norm = torch.stack([*losses, norm.float()]).tolist()  # the one wait for the device
        values = [loss * trainer.accumulate_grad_batches / scale for loss in scaled]
        self.scores["loss"].add(sum(values) / len(values))
        self.scores["gradient_norm"].add(gradient_norm)
        if math.isfinite(gradient_norm):
            self.in_a_row = 0
        else:
            drop_gradients(trainer, optimizer)
            self._skip(trainer, pl_module, micro_batches, values, gradient_norm, scale)
        pl_module.log("skipped_steps", torch.tensor(float(self.skipped)))
        for name, score in self.scores.items():
            pl_module.log(f"spike_score/{name}", torch.tensor(score.percent))

    def _skip(
        self,
        trainer: Trainer,
        module: LightningModule,
        micro_batches: list[_MicroBatch],
        losses: list[float],
        gradient_norm: float,
        scale: float,
    ) -> None:
        """Count and record a step that was left out."""
        described = [
            {"rank": trainer.global_rank, "micro_batch": i, "loss": loss, **_samples(trainer, batch.batch)}
            for i, (batch, loss) in enumerate(zip(micro_batches, losses, strict=True))
        ]
        batches = _gather(trainer, described)
        if scale > 1 and all(math.isfinite(batch["loss"]) for batch in batches):
            return  # the loss scale was too large, and is now halved
        self.skipped += 1
        self.in_a_row += 1
        record = {"step": trainer.global_step + 1, "gradient_norm": gradient_norm, "batches": batches}
        writes = trainer.is_global_zero and not _leaves_nothing(trainer)
        if writes:
            SkippedSteps(Path(trainer.default_root_dir)).add(record)
        if self.in_a_row < self.patience:
            return
        found, rank = self._search(trainer, module, micro_batches)
        place = None if found is None else asdict(found)
        path = Path(trainer.default_root_dir) / REPORT_FILE
        if writes:
            report = {"skipped_in_a_row": self.in_a_row, "first_nonfinite": place, "rank": rank, **record}
            write_json(path, as_json(report))
        trainer.strategy.barrier()  # a rank that ends with an error takes the others with it
        where = "running the last one again gave only finite values" if found is None else _sentence(found)
        raise TrainingDiverged(
            f"training diverged: {self.in_a_row} in a row of the steps up to {record['step']} had a loss or gradient "
            f"that is not finite; {where}"
            + ("" if _leaves_nothing(trainer) else f" ({path} lists the samples)")
            + "; try a lower model.optimizer.lr, a longer model.optimizer.warmup or trainer.precision 32-true"
        )

    def _search(
        self, trainer: Trainer, module: LightningModule, micro_batches: list[_MicroBatch]
    ) -> tuple[NonFinite | None, int | None]:
        """The first finding among the micro-batches of all ranks, and its rank."""
        with _as_before(module, self._carried):
            found = [  # all, in their order: a state is carried on, and ranks of a sharded model work together
                (find_nonfinite(module, functools.partial(_again, trainer, module, batch)), trainer.global_rank)
                for batch in micro_batches
            ]
        return next((one for one in _gather(trainer, found) if one[0] is not None), (None, None))


def _again(trainer: Trainer, module: LightningModule, batch: _MicroBatch) -> Tensor:
    """The loss of a batch, with the random numbers it had."""
    processor, device = batch.random_states
    torch.set_rng_state(processor)
    if device is not None:
        torch.cuda.set_rng_state(device, module.device)
    with trainer.precision_plugin.train_step_context():
        output: Any = module.training_step(batch.batch, batch.index)
    return output["loss"] if isinstance(output, Mapping) else output


@contextmanager
def _as_before(module: Any, carried: Any) -> Iterator[None]:
    """Let the module log nothing, and begin from the state that it carried before a step, if it carries one."""
    module.log = lambda *arguments, **options: None
    after = getattr(module, "_carried", None)
    if after is not None:
        module._carried = carried
    try:
        yield
    finally:
        del module.log
        if after is not None:
            module._carried = after


def _sentence(found: NonFinite) -> str:
    if not found.module:
        return f"the first such value is in the {found.phase} of {found.module_class}, outside its modules"
    what = {
        "parameters": "a weight of",
        "forward": "the output of",
        "backward": "the gradient passed back by",
        "parameter gradient": "the gradient of a weight of",
    }[found.phase]
    layer = "" if found.layer is None else f" of layer {found.layer}"
    inside = "" if found.module == found.component else f", in {found.module} ({found.module_class})"
    return f"the first such value is {what} {found.component} ({found.component_class}{layer}){inside}"


def _samples(trainer: Trainer, batch: Any) -> dict[str, Any]:
    """Which samples are in a batch, and from which sources, as far as it says."""
    batch = batch if isinstance(batch, Mapping) else {}
    described: dict[str, Any] = {"samples": batch["samples"].tolist() if "samples" in batch else "unknown"}
    if "sources" in batch:
        names = getattr(getattr(trainer, "datamodule", None), "source_names", None)
        indices = batch["sources"].tolist()
        described["sources"] = indices if names is None else [names[index] for index in indices]
    return described


def _gather(trainer: Trainer, values: list[Any]) -> list[Any]:
    """The lists of all ranks in one; every rank must call."""
    if trainer.world_size == 1:
        return values
    parts: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(parts, values)
    return [value for part in parts for value in part]


def _leaves_nothing(trainer: Trainer) -> bool:
    return bool(getattr(trainer, "fast_dev_run", False))
