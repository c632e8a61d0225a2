"""How open the gates of a layer are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gecko_lab.microscope.seen import Finding, local, sample

CLOSED = 0.01
"""A gate is closed where its sigmoid is below it, and saturated open where it is as near to one.

`silu(z) = z σ(z)` is an input that its own sigmoid gates, so that the same holds for it: closed, it lets less than a
hundredth through; saturated open, it is linear.
"""
_EDGE = math.log(CLOSED / (1 - CLOSED))  # in z


class GateSeen(NamedTuple):
    """One gate during one batch.

    Attributes:
        closed: scalar, share of sampled activations that are closed.
        open: scalar, share of them that are saturated open.
        largest: `[features]`, the largest input of each feature's gate in the batch.
    """

    closed: Tensor
    open: Tensor
    largest: Tensor

    @property
    def never_open(self) -> float:
        """Share of the features whose gate is closed at every timestep of the batch."""
        return (self.largest < _EDGE).double().mean().item()

    def metrics(self) -> dict[str, float]:
        """The shares."""
        return {"closed": self.closed.item(), "open": self.open.item(), "never_open": self.never_open}

    def findings(self) -> list[Finding]:
        """A gate all of whose features stay closed."""
        if self.never_open < 1:
            return []
        largest = self.largest.double().max().sigmoid().item()
        return [Finding("never opens", f"never opens: its sigmoid is at most {largest:.1e} in the whole batch")]


def look_at_gate(z: Tensor) -> GateSeen:
    """A gate whose input is `z` `[B, L, ...]`."""
    z = local(z.detach())
    some = sample(z)
    return GateSeen(
        closed=(some < _EDGE).float().mean(),
        open=(some > -_EDGE).float().mean(),
        largest=z.amax(dim=(0, 1)).flatten(),
    )


def gated(x: Tensor, z: Tensor, kind: str) -> Tensor:
    """`x` times the gate of input `z`, in float32.

    Args:
        x: any shape.
        z: of as many elements, in the same order.
        kind: see `gecko_lab.slots.Gate`.
    """
    z = z.float().view(x.shape)
    factor = z.sigmoid() if kind == "sigmoid" else torch.nn.functional.silu(z)
    return x.float() * factor
