"""The gradient of one optimiser step: its norm, clipping it, dropping it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, scale: float = 1.0) -> Tensor:
    """Clip the gradient by its norm.

    Args:
        parameters: those of the whole model; sharded ones (`DTensor`) count whole.
        limit: the largest norm; 0 leaves the gradient as it is.
        scale: what the loss was multiplied by before the backward pass (see `gradient_scale`).

    Returns:
        The norm before clipping, without the scale: a scalar that is the same on every rank. It is not finite where a
        gradient is not. Nothing waits for the device.
    """
    held = [parameter for parameter in parameters if parameter.grad is not None]
    norm = whole(torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])) / scale
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(held, limit, norm)
    return norm


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of one that is spread over ranks; then every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gradient_scale(trainer: Any, optimizer: Any) -> float:
    """What the gradients are multiplied by when they are clipped: 1 but in `16-mixed`.

    A fused optimiser divides by the loss scale itself, in its step; for any other Lightning has divided before.
    """
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None or not _unscales(optimizer) else float(scaler.get_scale())


def drop_gradients(trainer: Any, optimizer: Any) -> None:
    """Make the optimiser's coming step change neither weights nor moments nor their step counts."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if getattr(trainer.precision_plugin, "scaler", None) is not None and _unscales(optimizer):
        # The scaler insists on gradients to look at, and leaves out the step where one of them is infinite.
        next(p.grad for p in parameters if p.grad is not None).fill_(math.inf)
        return
    for parameter in parameters:
        parameter.grad = None


def _unscales(optimizer: Any) -> bool:
    return getattr(optimizer, "_step_supports_amp_scaling", False)
