"""Head normalisation in vectorised PyTorch, with a backward pass written by hand.

Shapes: B batch, L length, H heads, S key dim, M affine maps. Everything runs over pieces of timesteps that fit the
processor's cache, so each tensor passes once through memory however many operations a piece takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from gecko_lab.kernels.rotary.torch import as_pairs, unit_turns

CACHED_ELEMENTS = 1 << 19
"""Elements of one piece on CPU: 2 MiB in float32, of about four such tensors at a time."""


def head_norm_forward(
    z: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
    eps: float,
) -> list[Tensor]:
    """Normalise every head of `z`, and map it `M` times.

    Args:
        z: `[B, L, H·S]`.
        gamma, beta: `[M, H·S]`, in the dtype that is computed in.
        cos, sin: `[L, S / 2]`, to rotate the first two outputs by; or none.
        num_heads, num_rope_heads, eps: as in `head_norm`.

    Returns:
        `M` tensors `[B, L, H, S]` in the dtype of `z`.
    """
    z_BLHS = z.contiguous().unflatten(-1, (num_heads, -1))
    scale, shift = _maps(gamma, beta, num_heads)
    turns = None if cos is None or sin is None else unit_turns(cos, sin, gamma.dtype)
    outputs = [torch.empty_like(z_BLHS) for _ in scale]
    for rows, timesteps in _pieces(z_BLHS):
        normed, _ = _normalise(z_BLHS[rows, timesteps].to(gamma.dtype), eps)
        for i, output in enumerate(outputs):
            target = output[rows, timesteps]
            if z.dtype == gamma.dtype:
                values = torch.addcmul(shift[i], normed, scale[i], out=target)
            else:
                values = torch.addcmul(shift[i], normed, scale[i])
            if turns is not None and i < 2:
                as_pairs(values)[:, :, :num_rope_heads].mul_(turns[timesteps])
            if values is not target:
                target.copy_(values)
    return outputs


def head_norm_backward(
    gradients: list[Tensor],
    z: Tensor,
    gamma: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `z`, `gamma` and `beta`; see README.md for the derivation.

    Args:
        gradients: of the `M` outputs, `[B, L, H, S]`.
        z, gamma, cos, sin, num_heads, num_rope_heads, eps: as in the forward pass.
    """
    z_BLHS = z.contiguous().unflatten(-1, (num_heads, -1))
    scale, _ = _maps(gamma, gamma, num_heads)
    turns = None if cos is None or sin is None else unit_turns(cos, sin, gamma.dtype, inverse=True)
    gradients = [gradient.contiguous() for gradient in gradients]
    dgamma, dbeta = torch.zeros_like(scale), torch.zeros_like(scale)
    dz = torch.empty_like(z_BLHS)
    for rows, timesteps in _pieces(z_BLHS):
        normed, rstd = _normalise(z_BLHS[rows, timesteps].to(gamma.dtype), eps)
        dnormed = torch.zeros_like(normed)
        product = torch.empty_like(normed)
        for i, gradient in enumerate(gradients):
            piece = gradient[rows, timesteps].to(gamma.dtype)
            if turns is not None and i < 2:
                piece = piece.clone() if piece.dtype == gradient.dtype else piece
                as_pairs(piece)[:, :, :num_rope_heads].mul_(turns[timesteps])
            dbeta[i] += piece.sum(dim=(0, 1))
            dgamma[i] += torch.mul(piece, normed, out=product).sum(dim=(0, 1))
            dnormed.addcmul_(piece, scale[i])
        mean = torch.mul(dnormed, normed, out=product).mean(dim=-1, keepdim=True)
        dnormed.addcmul_(normed, mean, value=-1)
        if dz.dtype == gamma.dtype:
            torch.mul(dnormed, rstd, out=dz[rows, timesteps])
        else:
            dz[rows, timesteps] = dnormed.mul_(rstd)
    return dz.flatten(-2).view_as(z), dgamma.flatten(-2).div_(math.sqrt(scale.shape[-1])), dbeta.flatten(-2)


def _maps(gamma: Tensor, beta: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
    """`(γ + 1) / √S` and `β`, `[M, H, S]`."""
    scale = (gamma + 1).unflatten(-1, (num_heads, -1))
    return scale.div_(math.sqrt(scale.shape[-1])), beta.unflatten(-1, (num_heads, -1))


def _pieces(z: Tensor) -> Iterator[tuple[slice, slice]]:
    """Ranges of rows and timesteps of `[B, L, H, S]`: one on an accelerator, else as many as keep each in cache."""
    batch_size, length, num_heads, key_dim = z.shape
    if z.device.type != "cpu":
        yield slice(0, batch_size), slice(0, length)
        return
    per_timestep = num_heads * key_dim
    num_timesteps = max(1, min(length, CACHED_ELEMENTS // per_timestep))
    num_rows = max(1, CACHED_ELEMENTS // (num_timesteps * per_timestep)) if num_timesteps == length else 1
    for row in range(0, batch_size, num_rows):
        for start in range(0, length, num_timesteps):
            yield slice(row, row + num_rows), slice(start, start + num_timesteps)


def _normalise(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`z / √(mean(z²) + ε)` `[..., S]`, a new tensor, and the factor `[..., 1]`."""
    rstd = z.square().mean(dim=-1, keepdim=True).add_(eps).rsqrt_()
    return z * rstd, rstd
