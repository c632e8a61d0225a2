"""Which keys a query may see, apart from causality and documents."""

from __future__ import annotations

from typing import Literal, TypeVar

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
