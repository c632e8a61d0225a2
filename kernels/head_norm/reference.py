"""Head normalisation as the formulas have it, in any float dtype."""

from __future__ import annotations

import math

from torch import Tensor

from gecko_lab.kernels.rotary.reference import rotary_reference


def head_norm_reference(
    z: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
    eps: float,
) -> tuple[Tensor, ...]:
    """See `gecko_lab.kernels.head_norm.head_norm`."""
    dtype = gamma.dtype
    z_BLHS = z.to(dtype).unflatten(-1, (num_heads, -1))
    normed_BLHS = z_BLHS * (z_BLHS.square().mean(dim=-1, keepdim=True) + eps).rsqrt()
    scale = ((gamma + 1) / math.sqrt(z_BLHS.shape[-1])).unflatten(-1, (num_heads, -1))  # [M, H, S]
    outputs = [normed_BLHS * a + b for a, b in zip(scale, beta.view_as(scale), strict=True)]
    if cos is not None and sin is not None:
        outputs[:2] = [rotary_reference(x, cos, sin, num_rope_heads) for x in outputs[:2]]
    return tuple(x.to(z.dtype) for x in outputs)
