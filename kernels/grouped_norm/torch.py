"""Grouped normalisation in vectorised PyTorch, with a backward pass written by hand.

Shapes: N rows, G groups, K features of a group. Everything runs over pieces of rows that fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHED_ELEMENTS = 1 << 19
"""Elements of one piece on CPU: 2 MiB in float32, of about four such tensors at a time."""


def grouped_norm_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, centred: bool, eps: float
) -> Tensor:
    """Normalise `x` `[..., G·K]`; weight and bias `[G·K]` are in the dtype that is computed in."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    scale = None if weight is None else weight + 1
    flat_x, flat_y = x.contiguous().flatten(0, -2), y.flatten(0, -2)
    for piece in _pieces(flat_x):
        target = flat_y[piece]
        normed, _ = _normalise(flat_x[piece].to(dtype), num_groups, centred, eps)
        values = normed.flatten(-2)
        if scale is not None:
            out = target if y.dtype == dtype else values
            values = torch.mul(values, scale, out=out) if bias is None else torch.addcmul(bias, values, scale, out=out)
        if values is not target:
            target.copy_(values)
    return y


def grouped_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, num_groups: int, centred: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `x`, weight and bias, the latter zero where there is none; see README.md for the derivation."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    scale = None if weight is None else weight + 1
    dweight, dbias = (torch.zeros(x.shape[-1], dtype=dtype, device=x.device) for _ in range(2))
    flat_dy, flat_x, flat_dx = dy.contiguous().flatten(0, -2), x.contiguous().flatten(0, -2), dx.flatten(0, -2)
    for piece in _pieces(flat_x):
        normed, rstd = _normalise(flat_x[piece].to(dtype), num_groups, centred, eps)
        gradient = flat_dy[piece].to(dtype)
        product = gradient * normed.flatten(-2)
        if scale is not None:
            dweight += product.sum(dim=0)
            if centred:
                dbias += gradient.sum(dim=0)
            gradient, product = gradient * scale, product.mul_(scale)
        dnormed = gradient.view_as(normed)
        values = torch.addcmul(dnormed, normed, product.view_as(normed).mean(dim=-1, keepdim=True), value=-1)
        if centred:
            values -= dnormed.mean(dim=-1, keepdim=True)
        if dx.dtype == dtype:
            torch.mul(values, rstd, out=flat_dx[piece].view_as(values))
        else:
            flat_dx[piece] = values.mul_(rstd).flatten(-2)
    return dx, dweight, dbias


def _pieces(x: Tensor) -> Iterator[slice]:
    """Ranges of the rows of `[N, D]`: one on an accelerator, else as many as keep each in cache."""
    num_rows, width = x.shape
    size = max(1, CACHED_ELEMENTS // width) if x.device.type == "cpu" else max(1, num_rows)
    return (slice(start, start + size) for start in range(0, num_rows, size))


def _normalise(x: Tensor, num_groups: int, centred: bool, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised groups `[N, G, K]` of `x` `[N, G·K]`, a new tensor, and the factor `[N, G, 1]`."""
    groups = x.unflatten(-1, (num_groups, -1))
    if centred:
        groups = groups - groups.mean(dim=-1, keepdim=True)
    # One pass without a temporary, where the mean of the squares would take two.
    norm = torch.linalg.vector_norm(groups, dim=-1, keepdim=True)
    rstd = norm.square_().div_(groups.shape[-1]).add_(eps).rsqrt_()
    return groups.mul_(rstd) if centred else groups * rstd, rstd
