"""Rotary positions as the formula has them, in any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def rotary_reference(x: Tensor, cos: Tensor, sin: Tensor, num_rope_heads: int) -> Tensor:
    """See `gecko_lab.kernels.rotary.rotary`."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    cos, sin = cos[:, None].to(dtype), sin[:, None].to(dtype)  # [L, 1, S / 2]
    even, odd = x[:, :, :num_rope_heads].to(dtype).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)
    return turned if num_rope_heads == x.shape[2] else torch.cat((turned, x[:, :, num_rope_heads:]), dim=2)
