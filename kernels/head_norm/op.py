"""The operation `head_norm`: the one entry point, its checks, and the choice of a backend."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gecko_lab.kernels.backends import choose_backend
from gecko_lab.kernels.head_norm.reference import head_norm_reference
from gecko_lab.kernels.head_norm.torch import head_norm_backward, head_norm_forward
from gecko_lab.kernels.operation import operation
from gecko_lab.kernels.rotary.op import check_angles

Backend = Literal["auto", "triton", "torch", "reference"]


def head_norm(
    z: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    num_heads: int,
    num_rope_heads: int | None = None,
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> tuple[Tensor, ...]:
    """Queries and keys out of one projection: `rms_norm(z) ⊙ (γ_i + 1) / √S + β_i`, normalised per head, for each `i`.

    With angles the first two, the queries and keys of attention, are rotated by their positions (Gecko, arXiv
    2601.06463; RoFormer, arXiv 2104.09864). Nothing but `z` and the parameters is kept for the backward pass.

    Args:
        z: `[B, L, H·S]`, float64, float32, bfloat16 or float16; computed in at least float32.
        gamma: offsets of the factors from one, `[M, H·S]`, any float dtype.
        beta: `[M, H·S]`, any float dtype.
        cos: `[L, S / 2]` of `rotary_angles`; none: nothing is rotated.
        sin: `[L, S / 2]`, if there is `cos`.
        num_heads: `H`.
        num_rope_heads: heads that are rotated, the first ones; all by default.
        eps: added to the mean square.
        backend: "triton" (GPU), "torch", "reference", or "auto": the best that can run, on CPU the reference for a
            single timestep.

    Returns:
        `M` tensors `[B, L, H, S]` in the dtype of `z`. Gradients flow to `z`, `gamma` and `beta`; there are no second
        derivatives but through "reference".

    Raises:
        ValueError: for shapes, dtypes or a backend that do not fit, saying which.
    """
    num_rope_heads = num_heads if num_rope_heads is None else num_rope_heads
    _check(z, gamma, beta, cos, sin, num_heads, num_rope_heads)
    # On CPU, calling an operation costs more than it saves on a single timestep.
    single = z.shape[1] == 1 and not z.is_cuda
    backends = ("reference", "triton", "torch") if single else ("triton", "torch", "reference")
    chosen = choose_backend("head_norm", backend, backends, z)
    dtype = torch.promote_types(z.dtype, torch.float32)
    gamma, beta = gamma.to(dtype), beta.to(dtype)
    if chosen == "reference":
        return head_norm_reference(z, gamma, beta, cos, sin, num_heads, num_rope_heads, eps)
    return tuple(_head_norm(z, gamma, beta, cos, sin, num_heads, num_rope_heads, eps, chosen))


def _check(
    z: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
) -> None:
    """Refuse what the operation cannot compute, naming the values that clash."""
    if z.ndim != 3 or num_heads < 1 or z.shape[2] % num_heads:
        raise ValueError(f"head_norm needs z of shape [B, L, H·S], got {list(z.shape)} for {num_heads} heads")
    if z.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"head_norm needs z in float64, float32, bfloat16 or float16, got {z.dtype}")
    if gamma.ndim != 2 or gamma.shape != beta.shape or gamma.shape[0] not in (2, 4) or gamma.shape[1] != z.shape[2]:
        raise ValueError(
            f"head_norm needs gamma and beta [2 or 4, {z.shape[2]}] for z {list(z.shape)}, "
            f"got {list(gamma.shape)} and {list(beta.shape)}"
        )
    if (cos is None) != (sin is None):
        raise ValueError("head_norm takes cos and sin, or neither")
    if cos is not None and sin is not None:
        check_angles("head_norm", cos, sin, z.shape[1], z.shape[2] // num_heads, num_rope_heads, num_heads)


@operation("gecko_lab::head_norm")
def _head_norm(
    z: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
    eps: float,
    backend: str,
) -> list[Tensor]:
    if backend == "triton":
        from gecko_lab.kernels.head_norm.triton import head_norm_forward as forward
    else:
        forward = head_norm_forward
    return forward(z, gamma, beta, cos, sin, num_heads, num_rope_heads, eps)


@_head_norm.register_fake
def _(z, gamma, beta, cos, sin, num_heads, num_rope_heads, eps, backend):  # type: ignore[no-untyped-def]
    return [z.new_empty(*z.shape[:2], num_heads, z.shape[2] // num_heads) for _ in range(gamma.shape[0])]


@operation("gecko_lab::head_norm_backward")
def _head_norm_backward(
    gradients: list[Tensor],
    z: Tensor,
    gamma: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
    eps: float,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    if backend == "triton":
        from gecko_lab.kernels.head_norm.triton import head_norm_backward as backward
    else:
        backward = head_norm_backward
    return backward(gradients, z, gamma, cos, sin, num_heads, num_rope_heads, eps)


@_head_norm_backward.register_fake
def _(gradients, z, gamma, cos, sin, num_heads, num_rope_heads, eps, backend):  # type: ignore[no-untyped-def]
    dz = torch.empty_like(z, memory_format=torch.contiguous_format)
    return dz, torch.empty_like(gamma), torch.empty_like(gamma)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    z, gamma, _, cos, sin, *ctx.options = inputs
    ctx.save_for_backward(z, gamma, cos, sin)


def _backward(ctx, gradients):  # type: ignore[no-untyped-def]
    dz, dgamma, dbeta = _head_norm_backward(gradients, *ctx.saved_tensors, *ctx.options)
    return dz, dgamma, dbeta, None, None, None, None, None, None


_head_norm.register_autograd(_backward, setup_context=_setup_context)
