"""The angles of rotary positions, exact at any position."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotation(NamedTuple):
    """How queries and keys are turned.

    Attributes:
        cos: float64 `[L, S / 2]`.
        sin: float64 `[L, S / 2]`.
        num_heads: heads of the queries that are turned, the first ones.
    """

    cos: Tensor
    sin: Tensor
    num_heads: int


def rotary_angles(position: int, length: int, key_dim: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `t · base^(−2i/S)` for the timesteps `t = position … position + length − 1`.

    The angles are formed in float64: at position 4,000,000 their error is 5e-10, below float32's rounding of the
    cosine itself, whereas float32 angles would be off by 0.25.

    Returns:
        Two float64 tensors `[length, S / 2]`.
    """
    if key_dim % 2:
        raise ValueError(f"rotary positions need an even key dim, got {key_dim}")
    timesteps = torch.arange(position, position + length, dtype=torch.float64, device=device)
    frequencies = base ** (-torch.arange(0, key_dim, 2, dtype=torch.float64, device=device) / key_dim)
    angles = timesteps[:, None] * frequencies
    return angles.cos(), angles.sin()
