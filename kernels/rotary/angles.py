"""The angles of rotary positions, exact at any position."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

_COSINES: WeakValueDictionary[Any, Tensor] = WeakValueDictionary()
_SINES: WeakValueDictionary[Any, Tensor] = WeakValueDictionary()


def rotary_angles(
    position: int | Tensor, length: int, key_dim: int, base: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of `t · base^(−2i/S)` for the timesteps `t = position … position + length − 1`.

    The angles are formed in float64: at position 4,000,000 their error is 5e-10, below float32's rounding of the
    cosine itself, whereas float32 angles would be off by 0.25. While anyone holds the result of a call with an int,
    such as the layer before, whose backward pass will need it, the same call returns the same tensors.

    Args:
        position: an int, or int64 `[]` on the device, which is not waited for.
        length: timesteps.
        key_dim: `S`.
        base: of the wavelengths.
        device: of the angles.

    Returns:
        Two float64 tensors `[length, S / 2]`.
    """
    if key_dim % 2:
        raise ValueError(f"rotary positions need an even key dim, got {key_dim}")
    if isinstance(position, Tensor) or torch.compiler.is_compiling():
        return _angles(position, length, key_dim, base, device)
    # What holds under one mode (fake tensors, inference) must not be met under another.
    mode = id(_get_current_dispatch_mode()), torch.is_inference_mode_enabled()
    key = position, length, key_dim, base, device, mode
    cos, sin = _COSINES.get(key), _SINES.get(key)
    if cos is None or sin is None:
        cos, sin = _COSINES[key], _SINES[key] = _angles(position, length, key_dim, base, device)
    return cos, sin


def _angles(
    position: int | Tensor, length: int, key_dim: int, base: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    if isinstance(position, Tensor):
        timesteps = position + torch.arange(length, dtype=torch.float64, device=device)
    else:
        timesteps = torch.arange(position, position + length, dtype=torch.float64, device=device)
    frequencies = base ** (-torch.arange(0, key_dim, 2, dtype=torch.float64, device=device) / key_dim)
    angles = timesteps[:, None] * frequencies
    return angles.cos(), angles.sin()
