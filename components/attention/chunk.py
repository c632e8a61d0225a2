"""Chunk attention: Megalodon's."""

from __future__ import annotations

from gecko_lab.components.attention.cached import CachedAttention


def mean_visible_in_chunk(length: int, chunk_size: int) -> float:
    """Keys of its own chunk that a query sees, averaged over a stream of `length` timesteps."""
    chunks, tail = divmod(length, chunk_size)
    return (chunks * chunk_size * (chunk_size + 1) + tail * (tail + 1)) / 2 / length


class ChunkAttention(CachedAttention):
    """A query sees its own chunk alone, causally (Megalodon, arXiv 2404.08801)."""

    pattern = "chunk"

    def kept(self, position: int) -> int:
        """The running chunk."""
        return position % self.size

    def mean_visible(self, length: int) -> float:
        """The running chunk's keys so far."""
        return mean_visible_in_chunk(length, self.size)
