"""The operation `gated`: the one entry point, its checks, and the choice of a backend."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from gecko_lab.kernels.backends import choose_backend
from gecko_lab.kernels.gated.reference import gated_reference
from gecko_lab.kernels.gated.torch import gated_backward, gated_forward
from gecko_lab.kernels.operation import operation

Backend = Literal["auto", "triton", "torch", "reference"]


def gated(gate: Tensor, x: Tensor, addend: Tensor | None = None, *, backend: Backend = "auto") -> Tensor:
    """`silu(gate) ⊙ x + addend`: SwiGLU (arXiv 2002.05202), and the gate on what attention and memory recall.

    Only `gate` and `x` are kept for the backward pass; `silu(gate)` is computed again.

    Args:
        gate: `[..., L, D]`, before its activation; float64, float32, bfloat16 or float16.
        x: `[..., L, D]`, what is gated.
        addend: `[..., L, D]`; none by default.
        backend: "triton" (GPU), "torch", "reference", or "auto": the best that can run, on CPU the reference for a
            single timestep.

    Returns:
        `[..., L, D]` in the dtype that all promote to; computed in at least float32, but by "torch", which rounds after
        each operation. There are no second derivatives but through "reference".

    Raises:
        ValueError: for shapes, dtypes or a backend that do not fit, saying which.
    """
    tensors = [gate, x] if addend is None else [gate, x, addend]
    if any(t.shape != gate.shape for t in tensors):
        raise ValueError(f"gated needs gate, x and addend of one shape, got {[list(t.shape) for t in tensors]}")
    dtype = functools.reduce(torch.promote_types, [t.dtype for t in tensors])
    if dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"gated needs float64, float32, bfloat16 or float16, got {dtype}")
    gate, x, addend = gate.to(dtype), x.to(dtype), None if addend is None else addend.to(dtype)
    # On CPU, calling an operation costs more than it saves on a single timestep.
    single = gate.ndim > 1 and gate.shape[-2] == 1 and not gate.is_cuda
    backends = ("reference", "triton", "torch") if single else ("triton", "torch", "reference")
    chosen = choose_backend("gated", backend, backends, gate)
    if chosen == "reference":
        return gated_reference(gate, x, addend)
    y: Tensor = _gated(gate, x, addend, chosen)
    return y


@operation("gecko_lab::gated")
def _gated(gate: Tensor, x: Tensor, addend: Tensor | None, backend: str) -> Tensor:
    if backend == "triton":
        from gecko_lab.kernels.gated.triton import gated_forward as forward
    else:
        forward = gated_forward
    return forward(gate, x, addend)


@_gated.register_fake
def _(gate, x, addend, backend):  # type: ignore[no-untyped-def]
    return torch.empty_like(gate, memory_format=torch.contiguous_format)


@operation("gecko_lab::gated_backward")
def _gated_backward(dy: Tensor, gate: Tensor, x: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    if backend == "triton":
        from gecko_lab.kernels.gated.triton import gated_backward as backward
    else:
        backward = gated_backward
    return backward(dy, gate, x)


@_gated_backward.register_fake
def _(dy, gate, x, backend):  # type: ignore[no-untyped-def]
    dgate, dx = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (gate, x))
    return dgate, dx


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    gate, x, addend, ctx.backend = inputs
    ctx.has_addend = addend is not None
    ctx.save_for_backward(gate, x)


def _backward(ctx, dy):  # type: ignore[no-untyped-def]
    dgate, dx = _gated_backward(dy, *ctx.saved_tensors, ctx.backend)
    return dgate, dx, dy if ctx.has_addend else None, None


_gated.register_autograd(_backward, setup_context=_setup_context)
