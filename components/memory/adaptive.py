"""Adaptive working memory: Gecko's."""

from __future__ import annotations

from gecko_lab.components.memory.chunked import ChunkedMemory


class AdaptiveWorkingMemory(ChunkedMemory):
    """Written by a position-aware online softmax under the delta rule (AWM; Gecko, arXiv 2601.06463).

    Args:
        capacity: features per head as a multiple of the key dim, through a learned map; 1 is the paper's, without map.
    """

    delta_rule = True

    def __init__(
        self, num_heads: int, key_dim: int, value_dim: int, chunk_size: int, /, *, capacity: float = 1.0
    ) -> None:
        super().__init__(num_heads, key_dim, value_dim, chunk_size, capacity)
