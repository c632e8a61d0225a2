"""Which keys a query may see, apart from causality and documents."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor

Pattern = Literal["sliding_chunk", "chunk", "window", "full"]


Positions = TypeVar("Positions", int, Tensor)


def first_visible(position: Positions, pattern: Pattern, size: int) -> Positions:
    """The first key that the query at each position may see.

    Args:
        position: an int, or int64 `[...]`, counted from the start of a chunk.
        pattern: `sliding_chunk` (the chunk before and its own), `chunk` (its own), `window` (the last `size` keys,
            itself included) or `full`.
        size: chunk size or window; ignored for `full`.
    """
    if pattern == "sliding_chunk":
        return _at_least_zero(position // size - 1) * size
    if pattern == "chunk":
        return position // size * size
    if pattern == "window":
        return _at_least_zero(position - size + 1)
    if pattern == "full":
        return position * 0
    raise ValueError(f"attention pattern must be one of sliding_chunk, chunk, window, full, got {pattern!r}")


def _at_least_zero(position: Positions) -> Positions:
    return max(position, 0) if isinstance(position, int) else position.clamp(min=0)


def visible(queries: Tensor, keys: Tensor, pattern: Pattern, size: int) -> Tensor:
    """Bool `[L, M]`: may the query at `queries[i]` (`[L]`) see the key at `keys[j]` (`[M]`)?"""
    first = first_visible(queries, pattern, size)
    return (keys <= queries[:, None]) & (keys >= first[:, None])


def last_visible(position: int, num_keys: int, pattern: Pattern, size: int) -> int:
    """The last query, of a stream of `num_keys` timesteps, that may see the key at a position."""
    if pattern == "full":
        return num_keys - 1
    if pattern == "window":
        return min(position + size, num_keys) - 1
    chunks = 2 if pattern == "sliding_chunk" else 1
    return min((position // size + chunks) * size, num_keys) - 1


def reach(pattern: Pattern, size: int) -> int:
    """The most keys that a query may see; not of `full`."""
    return 2 * size if pattern == "sliding_chunk" else size


def document_bounds(segments: Tensor) -> tuple[Tensor, Tensor]:
    """Where each timestep's document begins and ends.

    Args:
        segments: int64 `[B, M]`, the document of each timestep; documents are contiguous.

    Returns:
        Int64 `[B, M]` each: the first and the last timestep of the document.
    """
    num_keys = segments.shape[1]
    timesteps = torch.arange(num_keys, device=segments.device).expand_as(segments)
    change = segments[:, 1:] != segments[:, :-1]
    edge = change.new_ones(segments.shape[0], 1)
    first = torch.where(torch.cat((edge, change), dim=1), timesteps, 0).cummax(dim=1).values
    last = torch.where(torch.cat((change, edge), dim=1), timesteps, num_keys)
    return first, last.flip(1).cummin(dim=1).values.flip(1)
