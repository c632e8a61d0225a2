"""Sliding chunk attention: Gecko's."""

from __future__ import annotations

from gecko_lab.components.attention.cached import CachedAttention
from gecko_lab.components.attention.chunk import mean_visible_in_chunk


class SlidingChunkAttention(CachedAttention):
    """A query sees its own chunk, causally, and the whole chunk before (SCA; Gecko, arXiv 2601.06463)."""

    pattern = "sliding_chunk"

    def kept(self, position: int) -> int:
        """The chunk before and the running one."""
        return position if position < self.size else self.size + position % self.size

    def mean_visible(self, length: int) -> float:
        """The running chunk's keys so far and, after the first chunk, those of the chunk before."""
        return mean_visible_in_chunk(length, self.size) + self.size * max(length - self.size, 0) / length
