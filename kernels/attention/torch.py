"""Attention by `scaled_dot_product_attention` over blocks: memory linear in the length, no `[L, M]` mask.

Legend: B batch, N blocks, C queries of a block, M keys that it is given, H heads, K key-value heads, S key dim,
V value dim.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gecko_lab.kernels.attention.pattern import Pattern, first_visible, visible


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    size: int,
    query_segments: Tensor | None,
    key_segments: Tensor | None,
    dropout: float,
) -> Tensor:
    """See `gecko_lab.kernels.attention.attention`."""
    num_keys = k.shape[1]
    position = cached = num_keys - q.shape[1]

    def block(start: int, stop: int, count: int = 1) -> Tensor:
        """Queries of the positions `[start, stop)`, in `count` blocks of equal length that see alike."""
        rows = slice(start - cached, stop - cached)
        first = first_visible(start, pattern, size)
        segments = None
        if query_segments is not None and key_segments is not None:
            segments = (query_segments[:, rows], key_segments[:, first:stop])
        return _attend(q[:, rows], k[:, first:stop], v[:, first:stop], start, count, pattern, size, segments, dropout)

    if pattern == "full":
        return block(cached, num_keys)
    # The running block is finished first; then all whole blocks go as one batch; then the tail. A stream's first
    # block, which has nothing before it, goes alone.
    outputs = []
    while position < num_keys:
        whole = (num_keys - position) // size
        alike = position % size == 0 and (pattern == "chunk" or position >= size)
        if alike and whole > 0:
            stop = position + whole * size
            outputs.append(block(position, stop, whole))
        else:
            stop = min((position // size + 1) * size, num_keys)
            outputs.append(block(position, stop))
        position = stop
    return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    start: int,
    count: int,
    pattern: Pattern,
    size: int,
    segments: tuple[Tensor, Tensor] | None,
    dropout: float,
) -> Tensor:
    """One call for `count` blocks of queries from position `start` on; `k`, `v` end where `q` ends."""
    batch, length, num_heads, _ = q.shape
    span = length // count  # queries of one block
    seen = k.shape[1] - (count - 1) * span  # keys that one block is given
    first = start + span - seen

    def fold(x: Tensor, width: int) -> Tensor:
        """`[B, T, ...]` to the blocks' windows `[B·N, width, ...]`, one every `span` timesteps."""
        if count == 1:
            return x
        return x.unfold(1, width, span).movedim(-1, 2).flatten(0, 1)

    mask: Tensor | None = None
    causal = span == seen and segments is None
    if span > 1 and not causal:
        queries = torch.arange(start, start + span, device=q.device)
        keys = torch.arange(first, first + seen, device=q.device)
        mask = visible(queries, keys, pattern, size)  # [C, M]
    if segments is not None:
        same = fold(segments[0], span)[:, :, None] == fold(segments[1], seen)[:, None, :]  # [B·N, C, M]
        mask = (same if mask is None else same & mask)[:, None]
    q_BHCS, k_BKMS, v_BKMV = (x.transpose(1, 2) for x in (fold(q, span), fold(k, seen), fold(v, seen)))
    y_BHCV = scaled_dot_product_attention(
        q_BHCS,
        k_BKMS,
        v_BKMV,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and span > 1,
        scale=1.0,
        enable_gqa=num_heads != k.shape[2],
    )
    return y_BHCV.transpose(1, 2).reshape(batch, length, num_heads, v.shape[3])
