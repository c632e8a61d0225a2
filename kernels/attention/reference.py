"""Attention as one dense masked softmax: plain, any float dtype, `[L, M]` weights in memory."""

from __future__ import annotations

import torch
from torch import Tensor

from gecko_lab.kernels.attention.pattern import Pattern, visible


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
    length, num_keys = q.shape[1], k.shape[1]
    repeats = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeats, dim=2), v.repeat_interleave(repeats, dim=2)
    keys = torch.arange(num_keys, device=q.device)
    mask = visible(keys[num_keys - length :], keys, pattern, size)  # [L, M]
    if query_segments is not None and key_segments is not None:
        mask = mask & (query_segments[:, :, None] == key_segments[:, None, :])  # [B, L, M]
        mask = mask[:, None]  # [B, 1, L, M]
    scores = torch.einsum("blhs,bmhs->bhlm", q, k)
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
    weights = torch.dropout(weights, dropout, train=True)
    return torch.einsum("bhlm,bmhv->blhv", weights, v)
