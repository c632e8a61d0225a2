"""Sliding window attention."""

from __future__ import annotations

from gecko_lab.components.attention.cached import CachedAttention


class SlidingWindowAttention(CachedAttention):
    """A query sees the last `window` timesteps, itself included (Longformer, arXiv 2004.05150; Mistral, 2310.06825).

    Args:
        window: timesteps; by default two chunks, the most that sliding chunk attention sees.
    """

    pattern = "window"

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        chunk_size: int,
        dropout: float = 0.0,
        /,
        *,
        window: int | None = None,
        rope_base: float = 500_000.0,
        num_rope_heads: int | None = None,
    ) -> None:
        size = 2 * chunk_size if window is None else window
        super().__init__(
            num_heads, key_dim, value_dim, size, dropout, rope_base=rope_base, num_rope_heads=num_rope_heads
        )

    def kept(self, position: int) -> int:
        """The window without the timestep that will be read next."""
        return min(position, self.size - 1)

    def mean_visible(self, length: int) -> float:
        """The window, which at the stream's beginning is not yet full."""
        rising = min(length, self.size)
        return (rising * (rising + 1) / 2 + (length - rising) * self.size) / length
