"""Kernels of what goes from chunk to chunk backwards: the adjoints of the memory and of its log-normalisers.

Legend and layouts as in `triton_scan.py`; README.md derives the equations.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gecko_lab.kernels.working_memory.triton_launch import choose_launches, product_options
from gecko_lab.kernels.working_memory.triton_scan import load_decay, load_same


@triton.jit
def scan_backward_kernel(
    features,
    same,
    next_log_norm,
    log_norms,
    history,
    d_read,
    d_last_memory,
    d_last_next_memory,
    g,
    row_sums,
    d_next_memory,
    N,
    H,
    S,
    V,
    last,
    HAS_SAME: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    DELTA_RULE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_F: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The adjoint G of the memory after the write of chunk `last - 1`, and back to that before the first.

    `d_read` float32 [B, N, H, S, V] is what the reads of chunk n give to entry n. Gives `g` = G [B, N, H, S, V] and,
    for `normaliser_backward_kernel`, the `row_sums` [B, N, H, 2, tiles of V, S] of G M' and of exp(l - l') G M.
    HAS_FINAL: whether there are gradients of the last memories; without them `last` is N - 2.
    """
    num_v = tl.cdiv(V, BLOCK_V)
    i_v, i_g = tl.program_id(0) % num_v, (tl.program_id(0) // num_v).to(tl.int64)
    i_b, i_h = i_g // H, i_g % H
    o_s, o_v = tl.arange(0, BLOCK_S), i_v * BLOCK_V + tl.arange(0, BLOCK_V)
    m_s, m_v = o_s < S, o_v < V
    o_m, m_m = o_s[:, None] * V + o_v[None, :], m_s[:, None] & m_v[None, :]
    entry = H.to(tl.int64) * S * V
    p_m = history + ((i_b * (N + 2) + last) * H + i_h) * S * V
    p_read = d_read + ((i_b * N + last) * H + i_h) * S * V
    if HAS_FINAL:
        b_g = tl.load(d_last_next_memory + i_g * S * V + o_m, mask=m_m, other=0.0)
    else:
        b_g = tl.load(p_read + entry + o_m, mask=m_m & (last + 1 < N), other=0.0)
    for i in range(last):
        i_n = last - 1 - i
        i_chunk = i_b * N + i_n
        o_n = (i_chunk * H + i_h) * S
        b_same = load_same(same, i_chunk, HAS_SAME)
        b_decay = load_decay(next_log_norm + i_g * S, log_norms + o_n, b_same, i_n, o_s, H, S)
        p_g = g + o_n * V
        tl.store(p_g + o_m, b_g.to(g.dtype.element_ty), mask=m_m)
        p_sums = row_sums + (o_n * 2 * num_v) + i_v * S + o_s
        b_m = tl.load(p_m + entry + o_m, mask=m_m, other=0.0).to(tl.float32)
        tl.store(p_sums, tl.sum(b_g * b_m, axis=1), mask=m_s)
        tl.debug_barrier()
        b_m = tl.load(p_m + o_m, mask=m_m & b_same, other=0.0).to(tl.float32)
        b_g *= b_decay[:, None]
        tl.store(p_sums + num_v * S, tl.sum(b_g * b_m, axis=1), mask=m_s)
        if DELTA_RULE:
            for start in range(0, S, BLOCK_F):
                o_f = start + tl.arange(0, BLOCK_F)
                m_f = o_f < S
                p_w = features + o_n * S + o_f[None, :] * S + o_s[:, None]
                b_w = tl.load(p_w, mask=m_f[None, :] & m_s[:, None], other=0.0).to(DOT_DTYPE)
                p_f = p_g + o_f[:, None] * V + o_v[None, :]
                b_f = tl.load(p_f, mask=m_f[:, None] & m_v[None, :], other=0.0).to(DOT_DTYPE)
                b_g = tl.dot(b_w, b_f, b_g, input_precision=PRECISION)
        b_g = tl.where(b_same, b_g, 0.0)
        if i_n < N - 1:
            b_g += tl.load(p_read + o_m, mask=m_m, other=0.0)
        elif HAS_FINAL:
            b_g += tl.load(d_last_memory + i_g * S * V + o_m, mask=m_m, other=0.0)
        p_m -= entry
        p_read -= entry
    tl.store(d_next_memory + i_g * S * V + o_m, b_g, mask=m_m)


@triton.jit
def normaliser_backward_kernel(
    same,
    next_log_norm,
    log_norms,
    row_sums,
    d_log_norms,
    correction,
    d_next_log_norm,
    N,
    H,
    S,
    last,
    num_v,
    HAS_SAME: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """The adjoint of the log-normalisers after each write, `correction` [B, N, H, S], and of the one before the first.

    `d_log_norms` [B, N, H, S] are the gradients of `log_norms`, looked at where HAS_FINAL.
    """
    num_s = tl.cdiv(S, BLOCK_S)
    i_s, i_g = tl.program_id(0) % num_s, (tl.program_id(0) // num_s).to(tl.int64)
    i_b, i_h = i_g // H, i_g % H
    o_s = i_s * BLOCK_S + tl.arange(0, BLOCK_S)
    m_s = o_s < S
    b_dl = tl.zeros([BLOCK_S], tl.float32)
    for i in range(last):
        i_n = last - 1 - i
        i_chunk = i_b * N + i_n
        o_n = (i_chunk * H + i_h) * S
        b_same = load_same(same, i_chunk, HAS_SAME)
        b_decay = load_decay(next_log_norm + i_g * S, log_norms + o_n, b_same, i_n, o_s, H, S)
        if HAS_FINAL:
            b_dl += tl.load(d_log_norms + o_n + o_s, mask=m_s, other=0.0)
        b_decayed = tl.zeros([BLOCK_S], tl.float32)
        p_sums = row_sums + (o_n * 2 * num_v) + o_s
        for i_v in range(num_v):
            b_dl -= tl.load(p_sums + i_v * S, mask=m_s, other=0.0)
            b_decayed += tl.load(p_sums + (num_v + i_v) * S, mask=m_s, other=0.0)
        tl.store(correction + o_n + o_s, b_dl, mask=m_s)
        b_dl = tl.where(b_same, b_decayed + b_decay * b_dl, 0.0)
    tl.store(d_next_log_norm + i_g * S + o_s, b_dl, mask=m_s)


class FinalGradients(NamedTuple):
    """Gradients of what a scan leaves behind, all float32 and contiguous."""

    memory: Tensor
    """[B, H, S, V]"""
    next_memory: Tensor
    """[B, H, S, V]"""
    log_norms: Tensor
    """[B, N, H, S]"""


class ScanGradients(NamedTuple):
    """Gradients of a scan over N chunks."""

    values: Tensor
    """of U [B, N, H, S, V], in the dtype of products; chunks from `last` on are not set."""
    correction: Tensor
    """of `log_norms` [B, N, H, S] float32; chunks from `last` on are not set."""
    next_memory: Tensor
    """[B, H, S, V] float32"""
    next_log_norm: Tensor
    """[B, H, S] float32"""


def scan_backward(
    features: Tensor,
    same: Tensor | None,
    next_log_norm: Tensor,
    log_norms: Tensor,
    history: Tensor,
    d_read: Tensor,
    final: FinalGradients | None,
    last: int,
) -> ScanGradients:
    """Backwards through `triton_scan.scan`, whose arguments and results these are; all contiguous.

    Args:
        d_read: [B, N, H, S, V] float32, gradient of entry n of the history through what chunk n reads.
        final: None where nothing depends on the last memories.
        last: the number of chunks; without `final` those whose memory is read, two less.
    """
    batch, num_chunks, heads, key_dim, value_dim = d_read.shape
    launches = choose_launches(1, key_dim, value_dim, history.dtype)
    launch = launches.scan_backward
    num_v = triton.cdiv(value_dim, launch.blocks["BLOCK_V"])
    row_sums = d_read.new_empty(batch, num_chunks, heads, 2, num_v, key_dim)
    gradients = ScanGradients(
        history.new_empty(d_read.shape),
        torch.empty_like(log_norms),
        d_read.new_empty(batch, heads, key_dim, value_dim),
        torch.empty_like(next_log_norm),
    )
    scan_backward_kernel[(num_v * batch * heads,)](
        features,
        same,
        next_log_norm,
        log_norms,
        history,
        d_read,
        None if final is None else final.memory,
        None if final is None else final.next_memory,
        gradients.values,
        row_sums,
        gradients.next_memory,
        num_chunks,
        heads,
        key_dim,
        value_dim,
        last,
        HAS_SAME=same is not None,
        HAS_FINAL=final is not None,
        DELTA_RULE=features.shape[-1] > 0,
        **product_options(history.dtype),
        **launch.options,
    )
    launch = launches.normaliser_backward
    normaliser_backward_kernel[(triton.cdiv(key_dim, launch.blocks["BLOCK_S"]) * batch * heads,)](
        same,
        next_log_norm,
        log_norms,
        row_sums,
        None if final is None else final.log_norms,
        gradients.correction,
        gradients.next_log_norm,
        num_chunks,
        heads,
        key_dim,
        last,
        num_v,
        HAS_SAME=same is not None,
        HAS_FINAL=final is not None,
        **launch.options,
    )
    return gradients
