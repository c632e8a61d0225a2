"""A ring of keys and values: a past of fixed shape, written in place, for reading one timestep after another."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gecko_lab.kernels.attention.pattern import Pattern, first_visible


class RingState(NamedTuple):
    """What later queries may still see, of one document, at addresses that never change.

    The key of timestep `t` stands in slot `t mod R`; with `p` timesteps read, and the one that is being read written,
    slot `s` holds the key of `t(s) = p − ((p − s) mod R)`. Nothing about it is a number of Python: a step is the same
    sequence of operations at every position.

    Attributes:
        keys: `[B, R, K, S]`, rotated to their place in the stream.
        values: `[B, R, K, V]`.
        position: int64 `[]`, timesteps read.
    """

    keys: Tensor
    values: Tensor
    position: Tensor

    @classmethod
    def empty(cls, keys: Tensor, values: Tensor, capacity: int) -> RingState:
        """Of `capacity` slots, for keys like `[B, M, K, S]` and values like `[B, M, K, V]`."""
        keys, values = (x.new_zeros(x.shape[0], capacity, *x.shape[2:]) for x in (keys, values))
        return cls(keys, values, torch.zeros((), dtype=torch.int64, device=keys.device))

    def fill(self, keys: Tensor, values: Tensor, position: int) -> None:
        """Hold the last keys `[B, M, K, S]` and values `[B, M, K, V]`, `M ≤ R`, of `position` timesteps, alone."""
        slots = torch.arange(position - keys.shape[1], position, device=keys.device) % self.keys.shape[1]
        for held, new in ((self.keys, keys), (self.values, values)):
            held.zero_().index_copy_(1, slots, new)
        self.position.fill_(position)


def attend(
    q: Tensor, k: Tensor, v: Tensor, ring: RingState, pattern: Pattern, size: int, dropout: float
) -> tuple[Tensor, RingState]:
    """Write one timestep into the ring and attend to what its query may see.

    Args:
        q: `[B, 1, H, S]`.
        k: `[B, 1, K, S]`; `K` divides `H`.
        v: `[B, 1, K, V]`.
        ring: its keys and values are changed in place, its position is not.
        pattern: which keys a query may see.
        size: chunk size or window.
        dropout: probability of dropping an attention weight.

    Returns:
        `[B, 1, H, V]`, and the ring with its new position.
    """
    capacity, position = ring.keys.shape[1], ring.position
    slot = (position % capacity).reshape(1)
    ring.keys.index_copy_(1, slot, k.to(ring.keys.dtype))
    ring.values.index_copy_(1, slot, v.to(ring.values.dtype))
    slots = torch.arange(capacity, device=position.device)
    written = position - (position - slots) % capacity  # t(s); negative where nothing has been written yet
    seen = (written >= first_visible(position, pattern, size)).view(1, 1, 1, capacity)
    y_BH1V = scaled_dot_product_attention(
        q.transpose(1, 2),
        ring.keys.to(q.dtype).transpose(1, 2),
        ring.values.to(q.dtype).transpose(1, 2),
        attn_mask=seen,
        dropout_p=dropout,
        scale=1.0,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return y_BH1V.transpose(1, 2), RingState(ring.keys, ring.values, position + 1)
