"""Sliding chunk attention: Gecko's."""

from __future__ import annotations

from gecko_lab.components.attention.cached import CachedAttention
from gecko_lab.components.attention.chunk import mean_visible_in_chunk


class SlidingChunkAttention(CachedAttention):
    """A query sees its own chunk, causally, and the whole chunk before (SCA; Gecko, arXiv 2601.06463).

    Args:
        rope_base: base of the rotary positions' wavelengths.
        num_rope_heads: heads that are rotated, the first ones; all by default.
    """

    pattern = "sliding_chunk"

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        chunk_size: int,
        dropout: float = 0.0,
        /,
        *,
        rope_base: float = 500_000.0,
        num_rope_heads: int | None = None,
    ) -> None:
        super().__init__(num_heads, key_dim, value_dim, chunk_size, dropout, rope_base, num_rope_heads)

    def kept(self, position: int) -> int:
        """The chunk before and the running one."""
        return position if position < self.size else self.size + position % self.size

    def mean_visible(self, length: int) -> float:
        """The running chunk's keys so far and, after the first chunk, those of the chunk before."""
        return mean_visible_in_chunk(length, self.size) + self.size * max(length - self.size, 0) / length
