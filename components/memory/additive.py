"""Additive memory: the adaptive one without its delta rule."""

from __future__ import annotations

from gecko_lab.components.memory.chunked import ChunkedMemory


class AdditiveMemory(ChunkedMemory):
    """Read as the adaptive memory is; writes add `ρ ⊙ K̃V` without regard to what the memory predicts already.

    `M' = M + ρ ⊙ (K̃ V − M)`: per feature, the softmax-weighted mean of all values since the document began.

    Args:
        capacity: features per head as a multiple of the key dim, through a learned map; 1 needs no map.
    """

    delta_rule = False

    def __init__(
        self, num_heads: int, key_dim: int, value_dim: int, chunk_size: int, /, *, capacity: float = 1.0
    ) -> None:
        super().__init__(num_heads, key_dim, value_dim, chunk_size, capacity)
