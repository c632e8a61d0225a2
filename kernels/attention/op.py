"""Causal attention over a bounded or unbounded past, in one document at a time."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from gecko_lab.kernels.attention import reference
from gecko_lab.kernels.attention import torch as blocks
from gecko_lab.kernels.attention.pattern import Pattern

Backend = Literal["auto", "torch", "reference"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    pattern: Pattern,
    size: int,
    query_segments: Tensor | None = None,
    key_segments: Tensor | None = None,
    dropout: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Softmax attention with scale 1 (Gecko, arXiv 2601.06463: the scale is in the queries).

    The queries are the last `L` of `M` timesteps; the keys are those of all `M`. For the chunk patterns the first key
    stands at the start of a chunk.

    Args:
        q: `[B, L, H, S]`.
        k: `[B, M, K, S]`; `K` divides `H`, and `H / K` query heads share a key head.
        v: `[B, M, K, V]`.
        pattern: which keys a query may see: `sliding_chunk` (its own chunk and the one before), `chunk` (its own),
            `window` (the last `size`) or `full`.
        size: chunk size or window, in timesteps.
        query_segments: int64 `[B, L]`, the document of each query; keys of other documents are not seen.
        key_segments: int64 `[B, M]`, likewise of each key; both or neither.
        dropout: probability of dropping an attention weight.
        backend: `torch` (blocks), `reference` (one dense mask) or `auto`.

    Returns:
        `[B, L, H, V]` in the dtype of `v`.

    Raises:
        ValueError: for an unknown backend or pattern, or heads that do not divide.
    """
    if q.shape[2] % k.shape[2]:
        raise ValueError(f"{q.shape[2]} query heads do not divide among {k.shape[2]} key heads")
    if backend not in ("auto", "torch", "reference"):
        raise ValueError(f"attention has the backends auto, torch and reference, not {backend!r}")
    function = reference.attention if backend == "reference" else blocks.attention
    return function(q, k, v, pattern, size, query_segments, key_segments, dropout)
