"""Whole chunks from sums over the scan to reads as one operation. `torch_chunks.py` and `triton.py` compute it.

What the scan leaves out between two ops need not be kept: its backward needs neither K~ V nor the softmaxes.

Shapes: B batch, N chunks, T timesteps of a chunk, H heads, S key dim, V value dim, F features (S for the delta rule,
0 without).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gecko_lab.kernels.operation import operation

from . import torch_chunks as torch_backend
from .chunk_products import without_autocast


@operation("gecko_lab::working_memory_chunks")
def chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    holds: Tensor | None,
    same: Tensor | None,
    memory: Tensor,
    next_memory: Tensor,
    next_log_norm: Tensor,
    unread: int,
    delta_rule: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Read and write N chunks.

    Args:
        q, k: [B, N, T, H, S].
        v: [B, N, T, H, V].
        keep: timesteps that are written [B, N, T] bool, at least one in each chunk; None for all.
        holds: timesteps whose document the memory holds that their chunk reads [B, N, T] bool; None for all.
        same: whether the memory that a chunk is written to holds its document [B, N] bool; None for all.
        memory: what chunk 0 reads [B, H, S, V] float32.
        next_memory: what chunk 1 reads, and what chunk 0 is written to [B, H, S, V] float32.
        next_log_norm: the log-normaliser of `next_memory` [B, H, S] float32.
        unread: how many first chunks read zero.
        delta_rule: whether writes leave out what the memory predicts.
        backend: "torch", where float32 may be float64 too, or "triton".

    Returns:
        y [B, N, T, H, V]; what chunks N and N + 1 will read [B, H, S, V] float32; the log-normaliser of the memory
        after each write [B, N, H, S] float32; and for the backward, without gradients, what every chunk up to N + 1
        reads [B, N + 2, H, S, V], and -rho K~ Q~ [B, N, H, S, F] of every chunk, in the dtype of v for "triton".
    """
    if backend == "triton":
        from .triton import chunks as forward
    else:
        forward = torch_backend.chunks
    return forward(q, k, v, keep, holds, same, memory, next_memory, next_log_norm, unread, delta_rule)


@operation("gecko_lab::working_memory_chunks_backward")
def chunks_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    holds: Tensor | None,
    same: Tensor | None,
    next_log_norm: Tensor,
    log_norms: Tensor,
    history: Tensor,
    features: Tensor,
    dy: Tensor,
    d_memory: Tensor | None,
    d_next_memory: Tensor | None,
    d_log_norms: Tensor | None,
    unread: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `chunks` with respect to q, k, v, memory, next_memory, next_log_norm.

    Without gradients of the last memories (d_memory, d_next_memory, d_log_norms) the last two chunks are passed over.
    """
    if backend == "triton":
        from .triton import chunks_backward as backward
    else:
        backward = torch_backend.chunks_backward
    return backward(
        q,
        k,
        v,
        keep,
        holds,
        same,
        next_log_norm,
        log_norms,
        history,
        features,
        dy,
        d_memory,
        d_next_memory,
        d_log_norms,
        unread,
    )


@chunks.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    holds: Tensor | None,
    same: Tensor | None,
    memory: Tensor,
    next_memory: Tensor,
    next_log_norm: Tensor,
    unread: int,
    delta_rule: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, num_chunks, _, heads, key_dim = q.shape
    log_norm = memory.new_empty(batch, num_chunks, heads, key_dim)
    like = v if backend == "triton" else memory
    return (
        v.new_empty(v.shape),
        memory.new_empty(memory.shape),
        memory.new_empty(memory.shape),
        log_norm,
        like.new_empty(batch, num_chunks + 2, *memory.shape[1:]),
        like.new_empty(batch, num_chunks, heads, key_dim, key_dim if delta_rule else 0),
    )


@chunks_backward.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    holds: Tensor | None,
    same: Tensor | None,
    next_log_norm: Tensor,
    log_norms: Tensor,
    history: Tensor,
    features: Tensor,
    dy: Tensor,
    d_memory: Tensor | None,
    d_next_memory: Tensor | None,
    d_log_norms: Tensor | None,
    unread: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, _, heads, key_dim, value_dim = history.shape
    memory = log_norms.new_empty(batch, heads, key_dim, value_dim)
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        memory,
        torch.empty_like(memory),
        next_log_norm.new_empty(next_log_norm.shape),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, keep, holds, same, _, _, next_log_norm, ctx.unread, _, ctx.backend = inputs
    ctx.save_for_backward(q, k, v, keep, holds, same, next_log_norm, *output[3:])
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any,
    dy: Tensor | None,
    d_memory: Tensor | None,
    d_next_memory: Tensor | None,
    d_log_norms: Tensor | None,
    *_saved: None,
) -> tuple[Tensor | None, ...]:
    q, k, v, keep, holds, same, *saved = ctx.saved_tensors
    if dy is None:
        dy = v.new_zeros(v.shape)
    with without_autocast(q.device):
        dq, dk, dv, *d_state = chunks_backward(
            q, k, v, keep, holds, same, *saved, dy, d_memory, d_next_memory, d_log_norms, ctx.unread, ctx.backend
        )
    return dq, dk, dv, None, None, None, *d_state, None, None, None


chunks.register_autograd(_gradients, setup_context=_save)
