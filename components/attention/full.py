"""Full attention."""

from __future__ import annotations

from gecko_lab.components.attention.cached import CachedAttention


class FullAttention(CachedAttention):
    """A query sees all of its past: the one attention whose state grows (arXiv 1706.03762; Llama, arXiv 2302.13971).

    Args:
        rope_base: base of the rotary positions' wavelengths.
        num_rope_heads: heads that are rotated, the first ones; all by default.
    """

    pattern = "full"

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
        """Everything."""
        return position

    def mean_visible(self, length: int) -> float:
        """Everything so far."""
        return (length + 1) / 2
