"""What the working memory carries from one piece of a stream to the next."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

NO_DOCUMENT = -1
"""Document number of an empty memory and of an empty running chunk; the stream's own numbers are >= 0."""


class WorkingMemoryState(NamedTuple):
    """State after `position` timesteps, its size independent of the position and of the chunk size.

    With c = position // chunk_size the *running* chunk: chunk c reads a memory of chunks 0 .. c-2, chunk c+1 will read
    one of chunks 0 .. c-1, and chunk c itself is kept as the sums that its write will need (of its last document so
    far; K~ is normalised by what has been read of it). No keys or values are kept. All tensors are float32 or better.

    Shapes: batch B, heads H, key dim S, value dim V; F is S for the delta rule and 0 for purely additive writes.
    """

    memory: Tensor
    """[B, H, S, V], what the running chunk reads."""
    log_norm: Tensor
    """[B, H, S], log-normaliser of `memory`; -inf where nothing has been written."""
    document: Tensor
    """[B] int64, the document that `memory` holds; -1 for none."""
    next_memory: Tensor
    """[B, H, S, V], what the next chunk will read."""
    next_log_norm: Tensor
    """[B, H, S], log-normaliser of `next_memory`."""
    next_document: Tensor
    """[B] int64, the document that `next_memory` holds; -1 for none."""
    running_log_norm: Tensor
    """[B, H, S], logsumexp of the running chunk's keys over time; -inf when the chunk is empty."""
    running_values: Tensor
    """[B, H, S, V], K~ V of the running chunk."""
    running_features: Tensor
    """[B, H, S, F], K~ Q~ of the running chunk."""
    running_document: Tensor
    """[B] int64, the last document of the running chunk; -1 when the chunk is empty."""
    position: int
    """Timesteps read so far; the offset in the running chunk is position % chunk_size."""

    @classmethod
    def empty(cls, like_q: Tensor, like_v: Tensor, *, delta_rule: bool = True) -> WorkingMemoryState:
        """The state at the beginning of a stream of like_q [B, L, H, S] and like_v [B, L, H, V]."""
        batch, _, heads, key_dim = like_q.shape
        dtype = compute_dtype(like_q, like_v)
        memory = like_q.new_zeros(batch, heads, key_dim, like_v.shape[-1], dtype=dtype)
        log_norm = like_q.new_full((batch, heads, key_dim), -torch.inf, dtype=dtype)
        features = like_q.new_zeros(batch, heads, key_dim, key_dim if delta_rule else 0, dtype=dtype)
        document = like_q.new_full((batch,), NO_DOCUMENT, dtype=torch.int64)
        return cls(
            memory, log_norm, document, memory, log_norm, document, log_norm, memory, features, document, position=0
        )

    def current_document(self) -> Tensor:
        """[B] int64, the number of the document read last; 0 at the beginning of a stream."""
        last = torch.where(self.running_document == NO_DOCUMENT, self.next_document, self.running_document)
        return last.clamp(min=0)


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype of softmaxes, sums and memory: float64 if any tensor is, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
