"""The two products over time that cost anything, as operations with their own backward: sums and read of every chunk.

Each saves nothing but its inputs (and the sums). `torch.py` and `triton.py` compute them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from gecko_lab.kernels.operation import operation

from . import torch as torch_backend


@operation("gecko_lab::working_memory_sums")
def sums(
    k: Tensor, v: Tensor, keep: Tensor | None, delta_rule: bool, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of every chunk: l = logsumexp_time(K), K~ V and K~ Q~ with K~ = softmax_time(K)^T, Q~ = softmax_S(K).

    Args:
        k: keys [B, N, T, H, S].
        v: values [B, N, T, H, V].
        keep: timesteps that are written [B, N, T] bool, at least one in each chunk; None for all.
        delta_rule: False leaves K~ Q~ out.
        dtype: of the computation and of the results; float32 for "triton".
        backend: "torch" or "triton".

    Returns:
        l [B, N, H, S], K~ V [B, N, H, S, V], K~ Q~ [B, N, H, S, F], where F is S, or 0 without the delta rule.
    """
    if backend == "triton":
        from . import triton as triton_backend

        return triton_backend.sums(k, v, keep, delta_rule)
    return torch_backend.sums(k, v, keep, delta_rule, dtype)


@operation("gecko_lab::working_memory_sums_backward")
def sums_backward(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    log_norm: Tensor,
    k_correction: Tensor,
    d_values: Tensor,
    d_features: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Gradients of `sums` with respect to k and v.

    k_correction [B, N, H, S] is what the softmax over time adds to dK~ at every timestep of a feature.
    """
    if backend == "triton":
        from . import triton as triton_backend

        return triton_backend.sums_backward(k, v, keep, log_norm, k_correction, d_values, d_features)
    return torch_backend.sums_backward(k, v, keep, log_norm, k_correction, d_values, d_features)


@operation("gecko_lab::working_memory_read")
def read(q: Tensor, memory: Tensor, holds: Tensor | None, dtype: torch.dtype, backend: str) -> Tensor:
    """softmax_S(q) M for every timestep, zero where the memory does not hold the query's document.

    Args:
        q: queries [B, N, T, H, S].
        memory: what the last N' <= N chunks read [B, N', H, S, V]; the chunks before them read zero.
        holds: timesteps that may read [B, N, T] bool; None for all.
        dtype: of the result.
        backend: "torch" or "triton".

    Returns:
        y [B, N, T, H, V].
    """
    if backend == "triton":
        from . import triton as triton_backend

        return triton_backend.read(q, memory, holds, dtype)
    return torch_backend.read(q, memory, holds, dtype)


@operation("gecko_lab::working_memory_read_backward")
def read_backward(q: Tensor, memory: Tensor, holds: Tensor | None, dy: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Gradients of `read` with respect to q and memory."""
    if backend == "triton":
        from . import triton as triton_backend

        return triton_backend.read_backward(q, memory, holds, dy)
    return torch_backend.read_backward(q, memory, holds, dy)


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would run the sums and the memory in half precision; devices such as meta have none."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


@sums.register_fake
def _(
    k: Tensor, v: Tensor, keep: Tensor | None, delta_rule: bool, dtype: torch.dtype, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    return torch_backend.empty_sums(k, v, delta_rule, dtype)


@sums_backward.register_fake
def _(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    log_norm: Tensor,
    k_correction: Tensor,
    d_values: Tensor,
    d_features: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return k.new_empty(k.shape), v.new_empty(v.shape)


@read.register_fake
def _(q: Tensor, memory: Tensor, holds: Tensor | None, dtype: torch.dtype, backend: str) -> Tensor:
    return q.new_empty(*q.shape[:-1], memory.shape[-1], dtype=dtype)


@read_backward.register_fake
def _(q: Tensor, memory: Tensor, holds: Tensor | None, dy: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), memory.new_empty(memory.shape)


def _save_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    k, v, keep, _, _, ctx.backend = inputs
    ctx.save_for_backward(k, v, keep, *output)


def _sums_gradients(
    ctx: Any, d_log_norm: Tensor, d_values: Tensor, d_features: Tensor
) -> tuple[Tensor, Tensor, None, None, None, None]:
    k, v, keep, log_norm, values, features = ctx.saved_tensors
    with without_autocast(k.device):
        # sum_t K~ dK~, which the softmax over time subtracts, is the sum over each feature's row of the sums.
        k_correction = d_log_norm - (values * d_values).sum(dim=-1) - (features * d_features).sum(dim=-1)
        dk, dv = sums_backward(k, v, keep, log_norm, k_correction, d_values, d_features, ctx.backend)
    return dk, dv, None, None, None, None


def _save_read(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, memory, holds, _, ctx.backend = inputs
    ctx.save_for_backward(q, memory, holds)


def _read_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
    q, memory, holds = ctx.saved_tensors
    with without_autocast(q.device):
        dq, d_memory = read_backward(q, memory, holds, dy, ctx.backend)
    return dq, d_memory, None, None, None


sums.register_autograd(_sums_gradients, setup_context=_save_sums)
read.register_autograd(_read_gradients, setup_context=_save_read)
