"""Attention against memory in what a layer adds up."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gecko_lab.microscope.gates import gated
from gecko_lab.microscope.seen import Finding

NEGLIGIBLE = 1e-3
PATIENCE = 3


class ShareSeen(NamedTuple):
    """The two summands of one layer, where the memory is read.

    Attributes:
        attention: scalar, norm of what attention adds, behind its gate.
        memory: scalar, norm of what the memory adds.
    """

    attention: Tensor
    memory: Tensor

    @property
    def share(self) -> float:
        """Attention's norm over the sum of both; not a number where nothing is added."""
        return (self.attention.double() / (self.attention.double() + self.memory.double())).item()

    def metrics(self) -> dict[str, float]:
        """Attention's share; none where no timestep reads the memory."""
        return {"share": self.share} if self.memory > 0 else {}

    def findings(self) -> list[Finding]:
        """One of the two is drowned by the other."""
        if not self.memory > 0:
            return []
        for name, share in (("attention", self.share), ("memory", 1 - self.share)):
            if share < NEGLIGIBLE:
                reason = f"{name} adds nothing in {PATIENCE} measurements in a row: its share of what is recalled is"
                return [Finding(f"{name} adds nothing", f"{reason} {share:.1e}", PATIENCE)]
        return []


def look_at_share(attended: Tensor, gate: tuple[Tensor, str] | None, remembered: Tensor) -> ShareSeen:
    """Compare at the timesteps that read anything from the memory.

    Args:
        attended: output of attention, `[B, L, H, V]`.
        gate: what the gate that multiplies it reads, `[B, L, H·V]`, and its kind.
        remembered: output of the memory, `[B, L, H, V]`.
    """
    attention = attended.float() if gate is None else gated(attended, *gate)
    memory = remembered.float().flatten(2)
    reads = memory.abs().amax(dim=-1, keepdim=True) > 0
    attention = torch.where(reads, attention.flatten(2), 0)
    return ShareSeen(torch.linalg.vector_norm(attention), torch.linalg.vector_norm(memory))
