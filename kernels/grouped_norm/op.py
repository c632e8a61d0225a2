"""The operation `grouped_norm`: the one entry point, its checks, and the choice of a backend."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.backends import choose_backend
from gecko_lab.kernels.grouped_norm.reference import grouped_norm_reference
from gecko_lab.kernels.grouped_norm.torch import grouped_norm_backward, grouped_norm_forward
from gecko_lab.kernels.operation import operation

Backend = Literal["auto", "triton", "torch", "reference"]
LARGEST_GROUP = 1 << 14
"""Features of a group that a Triton kernel holds in registers."""


def grouped_norm(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    num_groups: int = 1,
    centred: bool,
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> Tensor:
    """`(x − mean_g) / √(var_g + ε) ⊙ (1 + w) + b` (layer norm, arXiv 1607.06450), or uncentred (RMS norm, 1910.07467).

    Nothing but `x` and the weight is kept for the backward pass.

    Args:
        x: `[..., L, D]`, float64, float32, bfloat16 or float16; computed in at least float32.
        weight: offset of the factor from one, `[D]`, any float dtype; none: factor one.
        bias: `[D]`; only with a weight and where `centred`.
        num_groups: `G`, divides `D`.
        centred: whether the groups' means are subtracted: layer norm; else RMS norm.
        eps: `ε`.
        backend: "triton" (GPU), "torch", "reference", or "auto": the best that can run, on CPU the reference for a
            single timestep.

    Returns:
        `[..., L, D]` in the dtype of `x`. Gradients flow to `x`, weight and bias.

    Raises:
        ValueError: for shapes, dtypes or a backend that do not fit, saying which.
    """
    _check(x, weight, bias, num_groups, centred)
    # On CPU, calling an operation costs more than it saves on a single timestep.
    single = x.shape[-2] == 1 and not x.is_cuda
    backends: tuple[str, ...] = ("reference", "triton", "torch") if single else ("triton", "torch", "reference")
    if x.shape[-1] // num_groups > LARGEST_GROUP:
        backends = tuple(name for name in backends if name != "triton")
    chosen = choose_backend("grouped_norm", backend, backends, x)
    dtype = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (None if t is None else t.to(dtype) for t in (weight, bias))
    if chosen == "reference":
        return grouped_norm_reference(x, weight, bias, num_groups, centred, eps)
    if chosen == "torch" and centred and num_groups == 1:
        # PyTorch's own keeps as little, in one pass each way.
        scale = None if weight is None else 1 + weight
        return F.layer_norm(x.to(dtype), x.shape[-1:], scale, bias, eps).to(x.dtype)
    y: Tensor = _grouped_norm(x, weight, bias, num_groups, centred, eps, chosen)
    return y


def _check(x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, centred: bool) -> None:
    """Refuse what the operation cannot compute, naming the values that clash."""
    if x.ndim < 2 or num_groups < 1 or x.shape[-1] % num_groups:
        raise ValueError(f"grouped_norm needs x of shape [..., L, D], got {list(x.shape)} for {num_groups} groups")
    if x.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"grouped_norm needs x in float64, float32, bfloat16 or float16, got {x.dtype}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None and tensor.shape != x.shape[-1:]:
            raise ValueError(f"{name} must have shape {[x.shape[-1]]} for x {list(x.shape)}, got {list(tensor.shape)}")
    if bias is not None and (weight is None or not centred):
        raise ValueError("grouped_norm has a bias only beside a weight, and only where it is centred")


@operation("gecko_lab::grouped_norm")
def _grouped_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, centred: bool, eps: float, backend: str
) -> Tensor:
    if backend == "triton":
        from gecko_lab.kernels.grouped_norm.triton import grouped_norm_forward as forward
    else:
        forward = grouped_norm_forward
    return forward(x, weight, bias, num_groups, centred, eps)


@_grouped_norm.register_fake
def _(x, weight, bias, num_groups, centred, eps, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operation("gecko_lab::grouped_norm_backward")
def _grouped_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, num_groups: int, centred: bool, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "triton":
        from gecko_lab.kernels.grouped_norm.triton import grouped_norm_backward as backward
    else:
        backward = grouped_norm_backward
    return backward(dy, x, weight, num_groups, centred, eps)


@_grouped_norm_backward.register_fake
def _(dy, x, weight, num_groups, centred, eps, backend):  # type: ignore[no-untyped-def]
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dweight, dbias = (x.new_empty(x.shape[-1], dtype=torch.promote_types(x.dtype, torch.float32)) for _ in range(2))
    return dx, dweight, dbias


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, weight, bias, *ctx.options = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _backward(ctx, dy):  # type: ignore[no-untyped-def]
    x, weight = ctx.saved_tensors
    dx, dweight, dbias = _grouped_norm_backward(dy, x, weight, *ctx.options)
    return dx, None if weight is None else dweight, dbias if ctx.has_bias else None, None, None, None, None


_grouped_norm.register_autograd(_backward, setup_context=_setup_context)
