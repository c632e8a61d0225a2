"""Chunk attention: Megalodon's."""

from __future__ import annotations

from gecko_lab.components.attention.cached import CachedAttention


def mean_visible_in_chunk(length: int, chunk_size: int) -> float:
    """Keys of its own chunk that a query sees, averaged over a stream of `length` timesteps."""
    chunks, tail = divmod(length, chunk_size)
    return (chunks * chunk_size * (chunk_size + 1) + tail * (tail + 1)) / 2 / length


class ChunkAttention(CachedAttention):
    """A query sees its own chunk alone, causally (Megalodon, arXiv 2404.08801).

    Args:
        rope_base: base of the rotary positions' wavelengths.
        num_rope_heads: heads that are rotated, the first ones; all by default.
    """

    pattern = "chunk"

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
        """The running chunk."""
        return position % self.size

    def mean_visible(self, length: int) -> float:
        """The running chunk's keys so far."""
        return mean_visible_in_chunk(length, self.size)
