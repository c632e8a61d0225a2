"""The spike score of a series of numbers."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np


class SpikeScore:
    """Percentage of values that lie at least seven standard deviations from the average of the last 1,000 values.

    The definition is that of OLMo 2 (arXiv 2501.00656). Where it is silent: the average and the (population) standard
    deviation are those of the values before the one that is judged; a value is judged once a tenth of the window is
    full, and counts as no spike before; values that are not finite are left out.

    Args:
        window: values that the average is taken over.
        threshold: standard deviations from the average that make a spike.
    """

    def __init__(self, window: int = 1000, threshold: float = 7.0) -> None:
        self.threshold = threshold
        self.count = 0
        self.spikes = 0
        self._last: deque[float] = deque(maxlen=window)
        self._least = max(window // 10, 2)

    def add(self, value: float) -> None:
        """Take in the next value."""
        if not math.isfinite(value):
            return
        if len(self._last) >= self._least:
            last = np.fromiter(self._last, dtype=np.float64, count=len(self._last))
            deviation = last.std()
            self.spikes += bool(deviation > 0 and abs(value - last.mean()) >= self.threshold * deviation)
        self.count += 1
        self._last.append(value)

    @property
    def percent(self) -> float:
        """The score."""
        return 100 * self.spikes / max(self.count, 1)

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {"count": self.count, "spikes": self.spikes, "last": list(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a checkpoint stood."""
        self.count, self.spikes = int(state["count"]), int(state["spikes"])
        self._last = deque(state["last"], maxlen=self._last.maxlen)
