"""Adaptive working memory: Gecko's."""

from __future__ import annotations

from gecko_lab.components.memory.chunked import ChunkedMemory


class AdaptiveWorkingMemory(ChunkedMemory):
    """Written by a position-aware online softmax under the delta rule (AWM; Gecko, arXiv 2601.06463)."""

    delta_rule = True
