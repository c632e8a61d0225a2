"""What was measured, kept for the figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_POINTS = 512


class History:
    """The shares of every layer over time, and the last distributions.

    Once there are too many points every second one is dropped, so that a checkpoint stays small.

    Attributes:
        step: of the last measurement; 0 before the first.
        shares: attention's share by layer at each step, `(step, {layer: share})`.
        half_lives: share of the output's power in each bin of half-lives, by layer.
        write_ratios: share of the write ratios in each bin, by layer.
    """

    def __init__(self) -> None:
        self.step = 0
        self.shares: list[tuple[int, dict[str, float]]] = []
        self.half_lives: dict[str, list[float]] = {}
        self.write_ratios: dict[str, list[float]] = {}

    def add_shares(self, step: int, shares: dict[str, float]) -> None:
        """Add a point."""
        self.shares.append((step, shares))
        if len(self.shares) > MAX_POINTS:
            self.shares = self.shares[::2]

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {
            "step": self.step,
            "shares": [[step, dict(shares)] for step, shares in self.shares],
            "half_lives": dict(self.half_lives),
            "write_ratios": dict(self.write_ratios),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint stood."""
        self.step = int(state["step"])
        self.shares = [(int(step), dict(shares)) for step, shares in state["shares"]]
        self.half_lives, self.write_ratios = dict(state["half_lives"]), dict(state["write_ratios"])
