"""AdamW with decay groups, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.optim import AdamW

from gecko_lab.durations import Duration, in_steps
from gecko_lab.errors import ConfigurationError
from gecko_lab.slots import Slot

Schedule = Literal["cosine", "linear", "wsd", "constant"]


@dataclass(frozen=True)
class OptimizerSettings:
    """How the weights are trained: AdamW (arXiv 1711.05101), its schedule, and its batch.

    Args:
        lr: the highest learning rate.
        betas: decays of the moments.
        eps: added to the root of the second moment.
        weight_decay: on the matrices of linear maps and embeddings alone: never on norms, biases, moving averages and
            scales.
        schedule: after the warmup: `cosine` or `linear` decay, `wsd` (constant, then linear decay; arXiv
            2404.06395), or `constant`.
        warmup: linear warmup, in steps or tokens (`200`, `"10M tokens"`).
        duration: length of training, in steps or tokens; by default `trainer.max_steps` or `trainer.max_epochs`.
        decay: share of the training that `wsd` spends decaying.
        final_lr_ratio: the last learning rate as a share of the highest.
        gradient_clip: largest norm of the gradient; 0 does not clip.
        batch_tokens: tokens of one optimiser step over all devices; batches are accumulated to reach it. By default
            one batch of each device.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    schedule: Schedule = "cosine"
    warmup: Duration = 0
    duration: Duration | None = None
    decay: float = 0.2
    final_lr_ratio: float = 0.1
    gradient_clip: float = 1.0
    batch_tokens: int | None = None

    def check(self) -> None:
        """Raise a `ConfigurationError` for a value that cannot be."""
        rules = {
            "lr": (self.lr > 0, "must be positive"),
            "betas": (all(0 <= beta < 1 for beta in self.betas), "must lie in [0, 1)"),
            "weight_decay": (self.weight_decay >= 0, "must not be negative"),
            "decay": (0 < self.decay <= 1, "must lie in (0, 1]"),
            "final_lr_ratio": (0 <= self.final_lr_ratio <= 1, "must lie in [0, 1]"),
            "gradient_clip": (self.gradient_clip >= 0, "must not be negative"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise ConfigurationError(f"model.optimizer.{name}: {rule}, got {getattr(self, name)}")
        for name in ("warmup", "duration"):
            if getattr(self, name) is not None:
                in_steps(getattr(self, name), 1, f"model.optimizer.{name}")


def decayed_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to.

    They are the matrices of linear maps, embeddings, and what a component lists in `decayed`.
    """
    names = set()
    for prefix, module in model.named_modules():
        listed: tuple[str, ...] = ("weight",) if isinstance(module, (nn.Linear, nn.Embedding)) else ()
        if isinstance(module, Slot):
            listed = module.decayed
        for name in listed:
            if getattr(module, name) is not None:
                names.add(f"{prefix}.{name}" if prefix else name)
    return names


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> AdamW:
    """AdamW over the model's parameters in two groups, with weight decay and without."""
    decayed = decayed_parameters(model)
    parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in parameters if name in decayed], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in parameters if name not in decayed], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") and torch.is_floating_point(p) for _, p in parameters)
    return AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=fused,
    )


def learning_rate_factor(
    schedule: Schedule, steps: int, warmup: int, decay: float, final_ratio: float
) -> Callable[[int], float]:
    """The learning rate at each step, as a share of the highest.

    Args:
        schedule: the shape after the warmup.
        steps: optimiser steps of the training.
        warmup: steps of linear warmup; the first step already moves.
        decay: share of the steps that `wsd` decays over.
        final_ratio: the share that is left at the last step.
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        start = max(warmup, steps - round(decay * steps)) if schedule == "wsd" else warmup
        progress = min(max(step - start, 0) / max(steps - 1 - start, 1), 1.0)
        if schedule == "constant":
            return 1.0
        if schedule == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return 1 - (1 - final_ratio) * progress

    return factor
