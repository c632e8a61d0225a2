"""How much of the past the statistics of a timestep norm average over."""

from __future__ import annotations

from typing import NamedTuple

from gecko_lab.microscope.seen import Finding
from gecko_lab.slots import TimestepNormalization


class TimestepNormSeen(NamedTuple):
    """The horizons of one normalisation.

    Attributes:
        horizons: timesteps, by statistic.
    """

    horizons: dict[str, float]

    def metrics(self) -> dict[str, float]:
        """The horizons."""
        return {f"{name}_horizon": horizon for name, horizon in self.horizons.items()}

    def findings(self) -> list[Finding]:
        """None: a horizon is chosen, not learned."""
        return []


def look_at_timestep_norm(part: TimestepNormalization) -> TimestepNormSeen | None:
    """The horizons as they are configured; none where there are no statistics along the stream."""
    horizons = part.horizons()
    return TimestepNormSeen(horizons) if horizons else None
