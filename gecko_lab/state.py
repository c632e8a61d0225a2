"""Documents and states: what every component of a stream agrees on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree


class Segments(NamedTuple):
    """The documents of one piece of a stream.

    A piece without documents of its own, in a stream that has had none, is `None` instead: the fast path.

    Attributes:
        starts: bool `[B, L]`, true where a document begins. Nothing flows from before such a timestep to it or beyond.
        ids: int64 `[B, L]`, the number of documents begun in the stream up to and including each timestep.
    """

    starts: Tensor
    ids: Tensor

    @classmethod
    def of(cls, document_starts: Tensor, before: Tensor | None = None) -> Segments:
        """Number the documents of a piece.

        Args:
            document_starts: bool `[B, L]`.
            before: int64 `[B]`, the documents begun in the stream before this piece; none by default.
        """
        ids = document_starts.long().cumsum(dim=1)
        if before is not None:
            ids = ids + before[:, None]
        return cls(document_starts, ids)


def map_state(function: Callable[[Tensor], Tensor], state: Any) -> Any:
    """Apply `function` to every tensor of a (nested) state; everything else stays as it is."""
    return pytree.tree_map_only(Tensor, function, state)


def detach_state(state: Any) -> Any:
    """Cut the gradient between what was read and what will be: truncated back-propagation through time."""
    return map_state(Tensor.detach, state)


def state_bytes(state: Any) -> int:
    """Bytes that the tensors of a (nested) state hold."""
    return sum(leaf.numel() * leaf.element_size() for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor))


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """The dtype that statistics, softmaxes and states of activations of `dtype` are kept in."""
    return torch.promote_types(dtype, torch.float32)
