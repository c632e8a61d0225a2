"""The operation `rotary`: rotary position embedding (RoFormer, arXiv 2104.09864)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gecko_lab.kernels.backends import choose_backend
from gecko_lab.kernels.operation import operation
from gecko_lab.kernels.rotary.reference import rotary_reference
from gecko_lab.kernels.rotary.torch import rotary_forward, rotary_single

Backend = Literal["auto", "triton", "torch", "reference"]


def rotary(
    x: Tensor, cos: Tensor, sin: Tensor, *, num_rope_heads: int | None = None, backend: Backend = "auto"
) -> Tensor:
    """Rotate the pairs `(2i, 2i + 1)` of the features of each head.

    Args:
        x: `[B, L, H, S]`; the products are formed in at least float32.
        cos: `[L, S / 2]`, of `rotary_angles`.
        sin: `[L, S / 2]`.
        num_rope_heads: heads that are rotated, the first ones; all by default.
        backend: "triton" (GPU), "torch", "reference", or "auto": the best that can run.

    Returns:
        `[B, L, H, S]` in the dtype of `x`. The gradient flows to `x`; nothing but the angles is kept for it.

    Raises:
        ValueError: for shapes or a backend that do not fit, saying which.
    """
    num_heads, key_dim = x.shape[2:]
    num_rope_heads = num_heads if num_rope_heads is None else num_rope_heads
    check_angles("rotary", cos, sin, x.shape[1], key_dim, num_rope_heads, num_heads)
    chosen = choose_backend("rotary", backend, ("triton", "torch", "reference"), x)
    if chosen == "reference":
        return rotary_reference(x, cos, sin, num_rope_heads)
    if chosen == "torch" and x.shape[1] == 1:
        return rotary_single(x, cos, sin, num_rope_heads)
    result: Tensor = _rotary(x, cos, sin, num_rope_heads, False, chosen)
    return result


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, num_rope_heads: int) -> tuple[Tensor, Tensor]:
    """Turn queries `[B, L, H, S]` and keys `[B, L, K, S]`; `K` divides `H`, and heads that share keys turn alike.

    Args:
        q: as `x` of `rotary`.
        k: likewise.
        cos: as in `rotary`.
        sin: as in `rotary`.
        num_rope_heads: heads of the queries that are rotated, the first ones.

    Raises:
        ValueError: the rotation ends inside a group of heads that share their keys.
    """
    num_heads, num_key_heads = q.shape[2], k.shape[2]
    if num_rope_heads * num_key_heads % num_heads:
        raise ValueError(
            f"num_rope_heads {num_rope_heads} ends inside a group of {num_heads // num_key_heads} heads that share "
            f"their keys"
        )
    of_keys = num_rope_heads * num_key_heads // num_heads
    return rotary(q, cos, sin, num_rope_heads=num_rope_heads), rotary(k, cos, sin, num_rope_heads=of_keys)


def check_angles(
    operation: str, cos: Tensor, sin: Tensor, length: int, key_dim: int, num_rope_heads: int, num_heads: int
) -> None:
    """Refuse angles or a number of rotated heads that do not fit, naming both."""
    expected = [length, key_dim // 2]
    if key_dim % 2 or list(cos.shape) != expected or list(sin.shape) != expected:
        raise ValueError(
            f"{operation} needs cos and sin [L, S / 2] for {length} timesteps and an even key dim, "
            f"got {list(cos.shape)} and {list(sin.shape)} for a key dim of {key_dim}"
        )
    if not 0 <= num_rope_heads <= num_heads:
        raise ValueError(f"{operation}: num_rope_heads must lie in 0 … {num_heads}, got {num_rope_heads}")


@operation("gecko_lab::rotary")
def _rotary(x: Tensor, cos: Tensor, sin: Tensor, num_rope_heads: int, inverse: bool, backend: str) -> Tensor:
    if backend == "triton":
        from gecko_lab.kernels.rotary.triton import rotary_forward as forward
    else:
        forward = rotary_forward
    return forward(x, cos, sin, num_rope_heads, inverse)


@_rotary.register_fake
def _(x, cos, sin, num_rope_heads, inverse, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    _, cos, sin, ctx.num_rope_heads, ctx.inverse, ctx.backend = inputs
    ctx.save_for_backward(cos, sin)


def _backward(ctx, dy):  # type: ignore[no-untyped-def]
    dx = _rotary(dy, *ctx.saved_tensors, ctx.num_rope_heads, not ctx.inverse, ctx.backend)
    return dx, None, None, None, None, None


_rotary.register_autograd(_backward, setup_context=_setup_context)
