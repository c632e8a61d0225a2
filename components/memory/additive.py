"""Additive memory: the adaptive one without its delta rule."""

from __future__ import annotations

from gecko_lab.components.memory.chunked import ChunkedMemory


class AdditiveMemory(ChunkedMemory):
    """Read as the adaptive memory is; writes add `ρ ⊙ K̃V` without regard to what the memory predicts already.

    `M' = M + ρ ⊙ (K̃ V − M)`: per feature, the softmax-weighted mean of all values since the document began.
    """

    delta_rule = False
