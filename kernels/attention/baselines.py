"""What attention by blocks is measured against: PyTorch's own, over the whole sequence at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from gecko_lab.kernels.attention.pattern import Pattern, visible


def masked(q: Tensor, k: Tensor, v: Tensor, *, pattern: Pattern, size: int) -> Tensor:
    """`scaled_dot_product_attention` with a mask of `[L, L]`; arguments and result as `attention`'s."""
    timesteps = torch.arange(q.shape[1], device=q.device)
    mask = visible(timesteps, timesteps, pattern, size)
    q_BHLS, k_BHLS, v_BHLV = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q_BHLS, k_BHLS, v_BHLV, attn_mask=mask, scale=1.0).transpose(1, 2)


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention to every key: another function, whose cost is quadratic in the length."""
    q_BHLS, k_BHLS, v_BHLV = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q_BHLS, k_BHLS, v_BHLV, is_causal=True, scale=1.0).transpose(1, 2)
