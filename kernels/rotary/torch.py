"""Rotary positions as a product of complex numbers: one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_turns(cos: Tensor, sin: Tensor, dtype: torch.dtype, *, inverse: bool = False) -> Tensor:
    """`e^{i · angle}`, or its inverse, `[L, 1, S / 2]` complex, from `[L, S / 2]`.

    Args:
        cos, sin: of the angles.
        dtype: of real and imaginary part.
        inverse: turn back.
    """
    return torch.complex(cos.to(dtype), sin.neg().to(dtype) if inverse else sin.to(dtype)).unsqueeze(1)


def as_pairs(x: Tensor) -> Tensor:
    """A view of the features `(2i, 2i + 1)` of `[..., S]` as complex numbers, `[..., S / 2]`."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def rotary_single(x: Tensor, cos: Tensor, sin: Tensor, num_rope_heads: int) -> Tensor:
    """The same, differentiated by PyTorch: an operation of its own costs more than it saves on one timestep."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    source = x[:, :, :num_rope_heads].to(dtype, memory_format=torch.contiguous_format)
    turned = torch.view_as_real(as_pairs(source) * unit_turns(cos, sin, dtype)).flatten(-2).to(x.dtype)
    return turned if num_rope_heads == x.shape[2] else torch.cat((turned, x[:, :, num_rope_heads:]), dim=2)


def rotary_forward(x: Tensor, cos: Tensor, sin: Tensor, num_rope_heads: int, inverse: bool) -> Tensor:
    """Turn, or turn back, the first heads of `x` `[B, L, H, S]`; a new tensor."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    turns = unit_turns(cos, sin, dtype, inverse=inverse)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    rotated, source = y[:, :, :num_rope_heads], x[:, :, :num_rope_heads]
    if x.dtype == dtype:
        torch.mul(as_pairs(source.contiguous()), turns, out=as_pairs(rotated))
    else:
        wide = source.to(dtype, memory_format=torch.contiguous_format)
        as_pairs(wide).mul_(turns)
        rotated.copy_(wide)
    y[:, :, num_rope_heads:] = x[:, :, num_rope_heads:]
    return y
