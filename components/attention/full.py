"""Full attention."""

from __future__ import annotations

from gecko_lab.components.attention.cached import CachedAttention


class FullAttention(CachedAttention):
    """A query sees all of its past: the one attention whose state grows (arXiv 1706.03762; Llama, arXiv 2302.13971)."""

    pattern = "full"

    def kept(self, position: int) -> int:
        """Everything."""
        return position

    def mean_visible(self, length: int) -> float:
        """Everything so far."""
        return (length + 1) / 2
