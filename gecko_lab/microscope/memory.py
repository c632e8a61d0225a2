"""How much is written to a working memory, how much it holds, and how much is read from it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gecko_lab.microscope.seen import MAX_ROWS, Finding, histogram, local, summary
from gecko_lab.slots import Memory
from gecko_lab.state import at_least_float32, map_state

WRITE_RATIO_EDGES = 10.0 ** torch.linspace(-8, 0, 33, dtype=torch.float64)
NOTHING_READ = 1e-4
"""A read mass below it reads nothing."""
PATIENCE = 3


class MemorySeen(NamedTuple):
    """One working memory during one batch.

    Attributes:
        write_ratios: ρ of the first rows, `[rows, N, H, F]`, not a number where the memory was empty; none: not shown.
        norms: `[B, H]`, Frobenius norm of what each head holds after the batch; none: not shown.
        read_mass: scalar, RMS of what is read over RMS of the values, all timesteps counted.
        readers: scalar, share of the timesteps that read anything but zero.
    """

    write_ratios: Tensor | None
    norms: Tensor | None
    read_mass: Tensor
    readers: Tensor

    def metrics(self) -> dict[str, float]:
        """Write ratios over heads, slots and chunks; norms over heads; the read mass; who reads."""
        metrics = summary("write_ratio", self._written())
        if self.norms is not None:
            metrics |= summary("norm", self.norms)
        return {**metrics, "read_mass": self.read_mass.item(), "readers": self.readers.item()}

    def findings(self) -> list[Finding]:
        """Heads that nothing is written to; a memory that nobody reads."""
        findings = []
        largest = self._largest_ratios()
        resolution = 0.0 if self.write_ratios is None else torch.finfo(self.write_ratios.dtype).eps
        dead = [head for head, ratio in enumerate(largest) if ratio < resolution]
        if dead:
            heads = ", ".join(map(str, dead))
            reason = (
                f"nothing is written to head {heads}: the largest write ratio is {max(largest[h] for h in dead):.1e}, "
                f"below the resolution {resolution:.1e}"
            )
            findings.append(Finding("nothing is written", reason))
        mass = self.read_mass.item()
        if mass < NOTHING_READ:
            reason = (
                f"nothing is read in {PATIENCE} measurements in a row: the read mass is {mass:.1e}, and "
                f"{self.readers.item():.1%} of the timesteps read anything"
            )
            findings.append(Finding("nothing is read", reason, PATIENCE))
        return findings

    def histogram(self) -> list[float] | None:
        """The share of the write ratios in each bin; none where nothing was written over anything."""
        written = self._written()
        return histogram(written, WRITE_RATIO_EDGES) if written.numel() else None

    def _written(self) -> Tensor:
        """The write ratios of memories that held something, `[count]`."""
        if self.write_ratios is None:
            return torch.empty(0, dtype=torch.float64)
        return self.write_ratios[~self.write_ratios.isnan()].double()

    def _largest_ratios(self) -> list[float]:
        """The largest write ratio of each head; infinite where there is none."""
        if self.write_ratios is None or not self.write_ratios.numel():
            return []
        of_head = self.write_ratios.movedim(2, 0).flatten(1)
        return of_head.nan_to_num(-math.inf).amax(dim=1).where(~of_head.isnan().all(dim=1), math.inf).tolist()


def look_at_memory(part: Memory, inputs: dict[str, Any], output: tuple[Tensor, Any]) -> MemorySeen:
    """Look at one call.

    Args:
        part: the memory.
        inputs: of its `forward`, by name.
        output: of its `forward`.
    """
    k, v, segments = inputs["k"], inputs["v"], inputs.get("segments")
    read, state = output

    def first_rows(tensor: Tensor) -> Tensor:
        return tensor[:MAX_ROWS]

    ratios = part.write_ratios(
        first_rows(k), map_state(first_rows, inputs.get("state")), map_state(first_rows, segments)
    )
    contents = part.contents(state)
    read, v = local(read), local(v)
    wide = at_least_float32(v.dtype)
    read_norm, value_norm = (torch.linalg.vector_norm(x, dtype=wide) for x in (read, v))
    peaks = torch.linalg.vector_norm(read, ord=math.inf, dim=(2, 3))  # [B, L], without a copy of what is read
    return MemorySeen(
        write_ratios=None if ratios is None else local(ratios),
        norms=None if contents is None else torch.linalg.vector_norm(local(contents), dim=(2, 3)),
        read_mass=read_norm / value_norm.clamp_min(torch.finfo(wide).tiny),  # of no values nothing is read
        readers=(peaks != 0).float().mean(),
    )
