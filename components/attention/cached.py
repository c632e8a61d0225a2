"""What the attentions share: rotary positions and a cache of keys and values."""

from __future__ import annotations

from abc import abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from gecko_lab.components.attention.ring import RingState, attend
from gecko_lab.kernels.attention import Pattern, attention
from gecko_lab.kernels.attention.pattern import reach
from gecko_lab.kernels.rotary import rotary_angles
from gecko_lab.slots import Attention, Rotation
from gecko_lab.state import Segments


class AttentionState(NamedTuple):
    """What later queries may still see.

    Attributes:
        keys: `[B, M, K, S]`, rotated to their place in the stream.
        values: `[B, M, K, V]`.
        segments: int64 `[B, M]`, each key's document; none while the stream has had one document.
        position: timesteps read.
    """

    keys: Tensor
    values: Tensor
    segments: Tensor | None
    position: int


class CachedAttention(Attention):
    """Softmax attention, scale 1, rotary positions absolute in the stream (RoFormer, arXiv 2104.09864).

    Args:
        rope_base: base of the rotary positions' wavelengths.
        num_rope_heads: heads that are rotated, the first ones; all by default.
    """

    pattern: Pattern

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        value_dim: int,
        chunk_size: int,
        dropout: float = 0.0,
        /,
        *,
        rope_base: float = 500_000.0,
        num_rope_heads: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if num_rope_heads is None:
            num_rope_heads = num_heads
        if not 0 <= num_rope_heads <= num_heads:
            raise ValueError(f"{name}: num_rope_heads must lie in 0 … {num_heads} (num_heads), got {num_rope_heads}")
        if num_rope_heads and key_dim % 2:
            raise ValueError(f"{name}: rotary positions need an even key dim per head, got {key_dim}")
        if chunk_size < 1:
            raise ValueError(f"{name}: chunks and windows must be at least 1 timestep, got {chunk_size}")
        self.num_heads, self.key_dim, self.value_dim, self.size = num_heads, key_dim, value_dim, chunk_size
        self.dropout, self.rope_base, self.num_rope_heads = dropout, rope_base, num_rope_heads

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: AttentionState | RingState | None = None,
        segments: Segments | None = None,
    ) -> tuple[Tensor, AttentionState | RingState]:
        """`q` `[B, L, H, S]` and `k` `[B, L, K, S]`, turned, `v` `[B, L, K, V]` to `[B, L, H, V]`; `K` divides `H`.

        A ring takes one timestep a call, of one document, and no gradient flows through it.
        """
        q, k = q.to(v.dtype), k.to(v.dtype)
        if isinstance(state, RingState):
            if q.shape[1] != 1 or segments is not None:
                what = "documents" if segments is not None else f"{q.shape[1]} timesteps"
                raise ValueError(
                    f"{type(self).__name__}: a ring takes one timestep a call, of one document, got {what}"
                )
            return attend(q, k, v, state, self.pattern, self.size, self.dropout if self.training else 0.0)
        key_segments = None if segments is None else segments.ids
        if state is not None:
            key_segments = _join_segments(state, key_segments, k.shape[1])
            k, v = torch.cat((state.keys, k), dim=1), torch.cat((state.values, v), dim=1)
        y = attention(
            q,
            k,
            v,
            pattern=self.pattern,
            size=self.size,
            query_segments=None if key_segments is None else key_segments[:, -q.shape[1] :],
            key_segments=key_segments,
            dropout=self.dropout if self.training else 0.0,
        )
        position = q.shape[1] + (0 if state is None else state.position)
        count = self.kept(position)
        segments_kept = None if key_segments is None else _last(key_segments, count)
        return y, AttentionState(_last(k, count), _last(v, count), segments_kept, position)

    def ring(self, state: AttentionState, num_tokens: int, ring: RingState | None = None) -> RingState:
        """A state as a ring, from which the stream goes on one timestep a call.

        Args:
            state: is left as it is.
            num_tokens: timesteps to come; full attention has room for no more.
            ring: one to write into, that an earlier call made; by default a new one.

        Raises:
            ValueError: the stream has had documents, which a ring does not know, or the ring given is too small.
        """
        if state.segments is not None:
            raise ValueError(f"{type(self).__name__}: a ring holds the keys of one document, the stream has had more")
        needed = state.position + num_tokens if self.pattern == "full" else reach(self.pattern, self.size)
        if ring is None:
            ring = RingState.empty(state.keys, state.values, needed)
        elif ring.keys.shape[1] < needed:
            raise ValueError(f"{type(self).__name__}: {needed} slots are needed, the ring has {ring.keys.shape[1]}")
        ring.fill(state.keys, state.values, state.position)
        return ring

    def rotation(self, length: int, state: AttentionState | RingState | None, device: torch.device) -> Rotation | None:
        """By their place in the stream; none where no head is rotated."""
        if not self.num_rope_heads:
            return None
        position = 0 if state is None else state.position
        angles = rotary_angles(position, length, self.key_dim, self.rope_base, device)
        return Rotation(*angles, self.num_rope_heads)

    @abstractmethod
    def kept(self, position: int) -> int:
        """How many of the last keys and values a stream that has read `position` timesteps still needs."""

    def flops_per_token(self, length: int) -> float:
        """Scores and weighted values over the keys that are seen, averaged over the stream."""
        return 2 * self.num_heads * (self.key_dim + self.value_dim) * self.mean_visible(length)

    @abstractmethod
    def mean_visible(self, length: int) -> float:
        """Keys that a query sees, averaged over a stream of `length` timesteps in one document."""

    def state_bytes(self, length: int, itemsize: int) -> int:
        """The keys and values that are kept."""
        return self.kept(length) * self.num_heads * (self.key_dim + self.value_dim) * itemsize


def _last(x: Tensor, count: int) -> Tensor:
    """The last `count` timesteps of `[B, M, ...]`, copied where a view would keep much more than them in memory."""
    last = x[:, max(x.shape[1] - count, 0) :]
    return last.clone() if 2 * count < x.shape[1] else last


def _join_segments(state: AttentionState, new: Tensor | None, length: int) -> Tensor | None:
    """Documents `[B, M + L]` of the cached and the new keys; a stream without any so far counts as document 0."""
    if new is None and state.segments is None:
        return None
    cached = state.segments
    if cached is None:
        cached = state.keys.new_zeros(state.keys.shape[:2], dtype=torch.long)
    if new is None:
        new = cached[:, -1:].expand(-1, length)
    return torch.cat((cached, new), dim=1)
