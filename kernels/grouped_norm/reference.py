"""Grouped normalisation as the formulas have it, in any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def grouped_norm_reference(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, centred: bool, eps: float
) -> Tensor:
    """See `gecko_lab.kernels.grouped_norm.grouped_norm`."""
    groups = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (num_groups, -1))
    if centred:
        groups = groups - groups.mean(dim=-1, keepdim=True)
    y = (groups * (groups.square().mean(dim=-1, keepdim=True) + eps).rsqrt()).flatten(-2)
    if weight is not None:
        y = y * (1 + weight)
    if bias is not None:
        y = y + bias
    return y.to(x.dtype)
