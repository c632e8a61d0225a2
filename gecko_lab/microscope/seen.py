"""What was seen of one part of a layer, as metrics and as signs that the part is dead."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

MAX_ROWS = 4
MAX_TIMESTEPS = 256


class Finding(NamedTuple):
    """A sign that a part is dead.

    Attributes:
        kind: what is wrong, in the same words at every measurement.
        reason: the same with its numbers.
        patience: measurements in a row that must find it before it is believed.
    """

    kind: str
    reason: str
    patience: int = 1


class Seen(Protocol):
    """What was seen of one part: a named tuple of tensors."""

    def metrics(self) -> dict[str, float]:
        """Numbers by name."""

    def findings(self) -> list[Finding]:
        """Signs that the part is dead."""


def local(x: Tensor) -> Tensor:
    """This rank's shard of a tensor that is spread over ranks; any other as it is."""
    return x.to_local() if isinstance(x, DTensor) else x


def sample(x: Tensor) -> Tensor:
    """A copy of the first rows of `[B, L, ...]`, at timesteps spread evenly from the first to the last."""
    x = local(x.detach())[:MAX_ROWS]
    length = x.shape[1]
    if length <= MAX_TIMESTEPS:
        return x.clone()
    places = torch.linspace(0, length - 1, MAX_TIMESTEPS, device=x.device, dtype=torch.float64).round().long()
    return x.index_select(1, places)


def summary(name: str, values: Tensor) -> dict[str, float]:
    """The least, the median (the lower one of two) and the largest of some values; nothing of no values."""
    if not values.numel():
        return {}
    ordered = values.flatten().sort().values
    middle = ordered[(len(ordered) - 1) // 2]
    return {f"{name}_min": ordered[0].item(), f"{name}_median": middle.item(), f"{name}_max": ordered[-1].item()}


def weighted_median(values: Tensor, weights: Tensor) -> float:
    """The value up to which half of the weight lies; not a number where there is no finite weight."""
    values, order = values.flatten().sort()
    cumulative = weights.flatten()[order].cumsum(0)
    if not cumulative[-1] > 0 or cumulative[-1].isinf():
        return math.nan
    return values[int(torch.searchsorted(cumulative, cumulative[-1] / 2))].item()


def histogram(values: Tensor, edges: Tensor, weights: Tensor | None = None) -> list[float]:
    """The share of the values, or of their weights, in each bin; what lies outside counts to the outermost ones.

    Args:
        values: any shape.
        edges: `[bins + 1]`, rising.
        weights: shaped as the values; equal by default.
    """
    values = values.flatten()
    places = torch.bucketize(values, edges.to(values.dtype), right=True).sub(1).clamp(0, len(edges) - 2)
    weights = torch.ones_like(values) if weights is None else weights.flatten().to(values.dtype)
    counts = torch.zeros(len(edges) - 1, dtype=values.dtype).index_add(0, places, weights)
    return (counts / counts.sum()).nan_to_num().tolist()
