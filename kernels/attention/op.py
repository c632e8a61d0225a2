"""Causal attention over a bounded or unbounded past, in one document at a time."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gecko_lab.kernels.attention import reference, tiles
from gecko_lab.kernels.attention import torch as blocks
from gecko_lab.kernels.attention.pattern import Pattern, first_visible
from gecko_lab.kernels.backends import choose_backend
from gecko_lab.kernels.operation import operation

Backend = Literal["auto", "triton", "torch", "reference"]


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
        q: `[B, L, H, S]`, float64, float32, bfloat16 or float16, as `k` and `v`.
        k: `[B, M, K, S]`; `K` divides `H`, and `H / K` query heads share a key head.
        v: `[B, M, K, V]`.
        pattern: which keys a query may see: `sliding_chunk` (its own chunk and the one before), `chunk` (its own),
            `window` (the last `size`) or `full`.
        size: chunk size or window, in timesteps.
        query_segments: int64 `[B, L]`, the document of each query, as in `key_segments`; keys of other documents are
            not seen.
        key_segments: int64 `[B, M]`, the document of each key, contiguous; both or neither.
        dropout: probability of dropping an attention weight.
        backend: `triton` (fused kernels), `torch` (tiles or blocks), `reference` (one dense mask) or `auto`: triton on
            a GPU, but torch where weights are dropped, for a single query, and for full attention in one document with
            keys as wide as values, for which PyTorch has kernels of its own.

    Returns:
        `[B, L, H, V]` in the dtype of `v`. Gradients flow to `q`, `k` and `v`; second derivatives only through
        "reference".

    Raises:
        ValueError: for an unknown backend or pattern, a backend that cannot run, or heads that do not divide.
    """
    num_heads, num_key_heads = q.shape[2], k.shape[2]
    if num_heads % num_key_heads:
        raise ValueError(f"{num_heads} query heads do not divide among {num_key_heads} key heads")
    first_visible(0, pattern, size)  # refuses an unknown pattern
    segments = None if query_segments is None else key_segments
    # What `scaled_dot_product_attention` computes without keeping weights.
    dense = pattern == "full" and segments is None and q.shape[3] == v.shape[3]
    fused = dropout == 0 and q.shape[1] > 1 and not dense
    if backend == "triton" and dropout > 0:
        raise ValueError("attention: the backend triton does not drop weights; choose torch, or a dropout of 0")
    backends = ("triton", "torch", "reference") if fused or backend != "auto" else ("torch", "reference")
    choice = choose_backend("attention", backend, backends, q)
    if choice == "reference":
        return reference.attention(q, k, v, pattern, size, query_segments, key_segments, dropout)
    if choice == "triton":
        y, _ = _attention_strips(q, k, v, segments, pattern, size)
        return y
    if fused and q.device.type == "cpu":
        if num_heads != num_key_heads:
            k, v = (x.repeat_interleave(num_heads // num_key_heads, dim=2) for x in (k, v))
        return _attention_tiles(q, k, v, segments, pattern, size)
    return blocks.attention(q, k, v, pattern, size, query_segments, key_segments, dropout)


@operation(
    "gecko_lab::attention_tiles",
    "(Tensor q, Tensor k, Tensor v, Tensor? key_segments, str pattern, int size) -> Tensor",
)
def _attention_tiles(
    q: Tensor, k: Tensor, v: Tensor, key_segments: Tensor | None, pattern: Pattern, size: int
) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):
        return tiles.attention_forward(q, k, v, key_segments, pattern, size)


@operation(
    "gecko_lab::attention_tiles_backward",
    (
        "(Tensor dy, Tensor q, Tensor k, Tensor v, Tensor? key_segments, str pattern, int size)"
        " -> (Tensor, Tensor, Tensor)"
    ),
)
def _attention_tiles_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, key_segments: Tensor | None, pattern: Pattern, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(q.device.type, enabled=False):
        return tiles.attention_backward(dy, q, k, v, key_segments, pattern, size)


@operation(
    "gecko_lab::attention_strips",
    "(Tensor q, Tensor k, Tensor v, Tensor? key_segments, str pattern, int size) -> (Tensor, Tensor)",
)
def _attention_strips(
    q: Tensor, k: Tensor, v: Tensor, key_segments: Tensor | None, pattern: Pattern, size: int
) -> tuple[Tensor, Tensor]:
    from gecko_lab.kernels.attention.triton import attention_forward  # which needs triton

    return attention_forward(q, k, v, key_segments, pattern, size)


@operation(
    "gecko_lab::attention_strips_backward",
    (
        "(Tensor dy, Tensor q, Tensor k, Tensor v, Tensor y, Tensor log_sum_exp, Tensor? key_segments, str pattern,"
        " int size) -> (Tensor, Tensor, Tensor)"
    ),
)
def _attention_strips_backward(
    dy: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    log_sum_exp: Tensor,
    key_segments: Tensor | None,
    pattern: Pattern,
    size: int,
) -> tuple[Tensor, Tensor, Tensor]:
    from gecko_lab.kernels.attention.triton import attention_backward

    return attention_backward(dy, q, k, v, y, log_sum_exp, key_segments, pattern, size)


@_attention_tiles.register_fake
def _(q, k, v, key_segments, pattern, size):  # type: ignore[no-untyped-def]
    return v.new_empty(*q.shape[:3], v.shape[3])


@_attention_strips.register_fake
def _(q, k, v, key_segments, pattern, size):  # type: ignore[no-untyped-def]
    log_sum_exp = q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)
    return v.new_empty(*q.shape[:3], v.shape[3]), log_sum_exp


@_attention_tiles_backward.register_fake
def _(dy, q, k, v, key_segments, pattern, size):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


@_attention_strips_backward.register_fake
def _(dy, q, k, v, y, log_sum_exp, key_segments, pattern, size):  # type: ignore[no-untyped-def]
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _save_tiles(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, key_segments, ctx.pattern, ctx.size = inputs
    ctx.save_for_backward(q, k, v, key_segments)


def _save_strips(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, key_segments, ctx.pattern, ctx.size = inputs
    ctx.save_for_backward(q, k, v, *output, key_segments)
    ctx.mark_non_differentiable(output[1])


def _differentiate_tiles(ctx, dy):  # type: ignore[no-untyped-def]
    return *_attention_tiles_backward(dy, *ctx.saved_tensors, ctx.pattern, ctx.size), None, None, None


def _differentiate_strips(ctx, dy, _dlog_sum_exp):  # type: ignore[no-untyped-def]
    return *_attention_strips_backward(dy, *ctx.saved_tensors, ctx.pattern, ctx.size), None, None, None


_attention_tiles.register_autograd(_differentiate_tiles, setup_context=_save_tiles)
_attention_strips.register_autograd(_differentiate_strips, setup_context=_save_strips)
