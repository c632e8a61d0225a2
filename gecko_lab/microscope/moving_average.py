"""How long the states of a moving average last, and how fast they turn."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gecko_lab.microscope.seen import Finding, histogram, local, summary, weighted_median
from gecko_lab.slots import MovingAverage, Spectrum
from gecko_lab.state import map_state

HALF_LIFE_EDGES = 2.0 ** torch.arange(-2, 21, dtype=torch.float64)
"""Tokens: a quarter of one to a million."""
NEVER_FORGETS = 1e-6
"""A state is believed to keep everything below this `1 − |q|`: it halves after 700,000 tokens."""


class MovingAverageSeen(NamedTuple):
    """The states of one moving average.

    Attributes:
        spectrum: how they forget and turn, and their power in the output.
    """

    spectrum: Spectrum

    @property
    def half_lives(self) -> Tensor:
        """Tokens after which half of a state is left, float64 `[D, N]`."""
        return math.log(2) / -torch.log1p(-self.spectrum.forgotten.double())

    @property
    def periods(self) -> Tensor | None:
        """Tokens of one turn, `2π / |arg q|` with the angle in (−π, π], float64 `[D, N]`; none of real states."""
        if self.spectrum.angle is None:
            return None
        angle = torch.remainder(self.spectrum.angle.double() + math.pi, 2 * math.pi) - math.pi
        return 2 * math.pi / angle.abs()

    def metrics(self) -> dict[str, float]:
        """Half-lives and periods over all channels and states; the weighted medians halve the output's power."""
        power = self.spectrum.power.double()
        metrics: dict[str, float] = {}
        for name, values in (("half_life", self.half_lives), ("period", self.periods)):
            if values is not None:
                metrics |= summary(name, values) | {f"{name}_weighted_median": weighted_median(values, power)}
        return metrics

    def findings(self) -> list[Finding]:
        """States that never forget."""
        kept = self.spectrum.forgotten < NEVER_FORGETS
        if not kept.any():
            return []
        least = self.spectrum.forgotten.min().item()
        reason = f"never forgets: |q| > 1 − {NEVER_FORGETS:.0e} in {int(kept.sum())} of {kept.numel()} states"
        return [Finding("never forgets", f"{reason} (the least 1 − |q| is {least:.1e})")]

    def histogram(self) -> list[float]:
        """The share of the output's power in each bin of half-lives."""
        return histogram(self.half_lives, HALF_LIFE_EDGES, self.spectrum.power.double())


def look_at_moving_average(part: MovingAverage) -> MovingAverageSeen | None:
    """The states as the parameters make them; none where the component has nothing to show."""
    spectrum = part.spectrum()
    return None if spectrum is None else MovingAverageSeen(map_state(local, spectrum))
