"""Rotary position embedding, exact at any position (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


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


def rotary(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs `(2i, 2i + 1)` of the features of each head.

    Args:
        x: `[B, L, H, S]`; the products are formed in at least float32.
        cos: `[L, S / 2]`.
        sin: `[L, S / 2]`.

    Returns:
        `[B, L, H, S]` in the dtype of `x`.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = cos[:, None].to(dtype), sin[:, None].to(dtype)  # [L, 1, S / 2]
    even, odd = x.to(dtype).unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
