"""Attention tile by tile with PyTorch's matrix products: nothing but the inputs is kept.

Tiles of queries whose weights fit a processor's cache, each with the keys that it sees alone. The backward pass
computes the weights again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gecko_lab.kernels.attention.pattern import Pattern, document_bounds, first_visible

TILE = 128
"""Queries of a tile at most, whose weights then fit the cache; twice as many where values make most of the work."""

_WIDE_VALUES = 256


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, key_segments: Tensor | None, pattern: Pattern, size: int
) -> Tensor:
    """Attention, `[B, L, H, V]` in the dtype of `v`, computed in at least float32.

    Args:
        q: `[B, L, H, S]`.
        k: `[B, M, H, S]`.
        v: `[B, M, H, V]`.
        key_segments: int64 `[B, M]`, contiguous documents.
        pattern: which keys a query sees.
        size: chunk size or window.
    """
    dtype = v.dtype
    q, k, v = _wide(q, k, v)
    y = v.new_empty(*q.shape[:3], v.shape[3])
    for tile in _tiles(q, k, key_segments, pattern, size, _tile_size(v)):
        weights = _weights(tile, tile.queries(q), tile.keys(k))
        torch.bmm(weights, tile.keys(v), out=tile.queries(y))
    return y.to(dtype)


def attention_backward(
    dy: Tensor, q: Tensor, k: Tensor, v: Tensor, key_segments: Tensor | None, pattern: Pattern, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `q`, `k` and `v`; arguments as those of `attention_forward`.

    That of the softmax is taken from the weights and their gradients, not from the result: where a query sees a single
    key it is then zero, and not what is left of two sums.
    """
    dtypes = (q.dtype, k.dtype, v.dtype)
    dy, q, k, v = _wide(dy, q, k, v)
    dq, dk, dv = torch.empty(q.shape, dtype=q.dtype, device=q.device), k.new_zeros(k.shape), v.new_zeros(v.shape)
    for tile in _tiles(q, k, key_segments, pattern, size, _tile_size(v)):
        queries, keys, grad = tile.queries(q), tile.keys(k), tile.queries(dy)
        weights = _weights(tile, queries, keys)
        tile.keys(dv).baddbmm_(weights.mT, grad)
        dweights = torch.bmm(grad, tile.keys(v).mT)
        dscores = torch.ops.aten._softmax_backward_data(dweights, weights, -1, weights.dtype)
        torch.bmm(dscores, keys, out=tile.queries(dq))
        tile.keys(dk).baddbmm_(dscores.mT, queries)
    return dq.to(dtypes[0]), dk.to(dtypes[1]), dv.to(dtypes[2])


class _Tile(NamedTuple):
    """Some queries of one batch entry, and all keys that any of them sees; the last of each is the same timestep.

    Attributes:
        batch: which entry.
        rows: the queries.
        columns: the keys.
        bias: −∞ where a query does not see a key, else zero; `[Q, n]`, of the last `n` keys: all see those before.
    """

    batch: int
    rows: slice
    columns: slice
    bias: Tensor

    def queries(self, x: Tensor) -> Tensor:
        """A view of `[B, L, H, D]`: `[H, Q, D]`."""
        return x[self.batch, self.rows].transpose(0, 1)

    def keys(self, x: Tensor) -> Tensor:
        """A view of `[B, M, H, D]`: `[H, keys, D]`."""
        return x[self.batch, self.columns].transpose(0, 1)


def _tile_size(v: Tensor) -> int:
    return 2 * TILE if v.shape[-1] >= _WIDE_VALUES else TILE


def _tiles(
    q: Tensor, k: Tensor, segments: Tensor | None, pattern: Pattern, size: int, tile_size: int
) -> Iterator[_Tile]:
    """All tiles of a call. None reaches across a chunk's edge, so that all queries of one see the same first key."""
    num_keys = k.shape[1]
    offset = num_keys - q.shape[1]
    documents = None if segments is None else document_bounds(segments)[0].cpu()
    causal: dict[int, Tensor] = {}
    for batch in range(q.shape[0]):
        position = offset
        while position < num_keys:
            stop = min((position // tile_size + 1) * tile_size, num_keys)
            if pattern in ("sliding_chunk", "chunk"):
                stop = min(stop, (position // size + 1) * size)
            first, edge = (first_visible(t, pattern, size) for t in (position, stop - 1))
            if documents is not None:
                first, edge = max(first, int(documents[batch, position])), max(edge, int(documents[batch, stop - 1]))
            count = stop - position
            if first == edge:
                if count not in causal:
                    causal[count] = k.new_full((count, count), -torch.inf).triu_(1)
                bias = causal[count]
            else:
                queries, keys = torch.arange(position, stop), torch.arange(first, stop)
                firsts = first_visible(queries, pattern, size)
                if documents is not None:
                    firsts = torch.maximum(firsts, documents[batch, position:stop])
                hidden = (keys > queries[:, None]) | (keys < firsts[:, None])
                bias = k.new_zeros(hidden.shape).masked_fill_(hidden.to(k.device), -torch.inf)
            yield _Tile(batch, slice(position - offset, stop - offset), slice(first, stop), bias)
            position = stop


def _weights(tile: _Tile, queries: Tensor, keys: Tensor) -> Tensor:
    """Softmax of one tile's scores, `[H, Q, keys]`."""
    scores = torch.bmm(queries, keys.mT)
    scores[:, :, -tile.bias.shape[1] :].add_(tile.bias)
    return torch.softmax(scores, dim=-1)


def _wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    """In at least float32."""
    return tuple(x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)
