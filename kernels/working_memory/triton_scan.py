"""Kernels of what goes from chunk to chunk: the log-normalisers, then the memory.

A program carries all features of some values of one head, `[BLOCK_S, BLOCK_V]` in registers, from chunk to chunk. What
the product over features needs of them it reads back from what it has just written: a block of threads sees its own
writes after a barrier.

Legend: i_ index of a program, o_ offsets, m_ masks, b_ values in registers, p_ pointers. Entry n of `history`
[B, N + 2, H, S, V] is what chunk n reads: 0 and 1 are given, and chunk n is written to entry n + 1, which gives n + 2.
The log-normalisers l' of the entries 2, 3, ... are `log_norms` [B, N, H, S], that of entry 1 is `next_log_norm`.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gecko_lab.kernels.working_memory.triton_launch import choose_launches, product_options


@triton.jit
def load_same(same, i_chunk, HAS_SAME: tl.constexpr):
    """Whether the memory that chunk `i_chunk` is written to holds its document; `same` bool [B, N]."""
    b_same = tl.full([], 1, tl.int1)
    if HAS_SAME:
        b_same = tl.load(same + i_chunk) != 0
    return b_same


@triton.jit
def load_decay(p_initial, p_after, b_same, i_n, o_s, H, S):
    """exp(l - l'), by which chunk `i_n` multiplies what was written before: zero where the memory is cleared.

    `p_after` points to l' of the chunk, `p_initial` to l before the first one.
    """
    m_s = o_s < S
    b_initial = tl.load(p_initial + o_s, mask=m_s & (i_n == 0), other=0.0)
    b_before = tl.where(i_n == 0, b_initial, tl.load(p_after - H * S + o_s, mask=m_s & (i_n > 0), other=0.0))
    return tl.where(b_same, tl.exp(b_before - tl.load(p_after + o_s, mask=m_s, other=0.0)), 0.0)


@triton.jit
def normaliser_kernel(log_norm, same, next_log_norm, log_norms, N, H, S, HAS_SAME: tl.constexpr, BLOCK_S: tl.constexpr):
    """`log_norms` l' = logaddexp(l, `log_norm`) for chunk after chunk [B, N, H, S]; l = -inf in a cleared memory."""
    num_s = tl.cdiv(S, BLOCK_S)
    i_s, i_g = tl.program_id(0) % num_s, (tl.program_id(0) // num_s).to(tl.int64)
    i_b, i_h = i_g // H, i_g % H
    o_s = i_s * BLOCK_S + tl.arange(0, BLOCK_S)
    m_s = o_s < S
    b_l = tl.load(next_log_norm + i_g * S + o_s, mask=m_s, other=0.0)
    for i_n in range(N):
        i_chunk = i_b * N + i_n
        o_n = (i_chunk * H + i_h) * S + o_s
        b_l = tl.where(load_same(same, i_chunk, HAS_SAME), b_l, float("-inf"))
        b_chunk = tl.load(log_norm + o_n, mask=m_s, other=0.0)
        b_max = tl.maximum(b_l, b_chunk)
        b_l = b_max + tl.log(1.0 + tl.exp(tl.minimum(b_l, b_chunk) - b_max))
        tl.store(log_norms + o_n, b_l, mask=m_s)


@triton.jit
def scan_kernel(
    values,
    features,
    same,
    memory,
    next_memory,
    next_log_norm,
    log_norms,
    history,
    last_memory,
    last_next_memory,
    N,
    H,
    S,
    V,
    HAS_SAME: tl.constexpr,
    DELTA_RULE: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_F: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """M' = exp(l - l') M + U + F M for chunk after chunk.

    `values` U float32 [B, N, H, S, V], `features` F [B, N, H, S, S]; `memory`, `next_memory` float32 [B, H, S, V] are
    the entries 0 and 1 of the history, `last_memory`, `last_next_memory` its entries N and N + 1.
    """
    num_v = tl.cdiv(V, BLOCK_V)
    i_v, i_g = tl.program_id(0) % num_v, (tl.program_id(0) // num_v).to(tl.int64)
    i_b, i_h = i_g // H, i_g % H
    o_s, o_v = tl.arange(0, BLOCK_S), i_v * BLOCK_V + tl.arange(0, BLOCK_V)
    m_s, m_v = o_s < S, o_v < V
    o_m, m_m = o_s[:, None] * V + o_v[None, :], m_s[:, None] & m_v[None, :]
    entry = H.to(tl.int64) * S * V
    p_m = history + (i_b * (N + 2) * H + i_h) * S * V
    b_m = tl.load(memory + i_g * S * V + o_m, mask=m_m, other=0.0)
    tl.store(p_m + o_m, b_m.to(history.dtype.element_ty), mask=m_m)
    p_m += entry
    b_m = tl.load(next_memory + i_g * S * V + o_m, mask=m_m, other=0.0)
    tl.store(p_m + o_m, b_m.to(history.dtype.element_ty), mask=m_m)
    for i_n in range(N):
        i_chunk = i_b * N + i_n
        o_n = (i_chunk * H + i_h) * S
        if i_n == N - 1:
            tl.store(last_memory + i_g * S * V + o_m, b_m, mask=m_m)
        b_same = load_same(same, i_chunk, HAS_SAME)
        b_decay = load_decay(next_log_norm + i_g * S, log_norms + o_n, b_same, i_n, o_s, H, S)
        b_m = tl.where(b_same, b_m, 0.0) * b_decay[:, None]
        b_m += tl.load(values + o_n * V + o_m, mask=m_m, other=0.0)
        if DELTA_RULE:
            tl.debug_barrier()
            for start in range(0, S, BLOCK_F):
                o_f = start + tl.arange(0, BLOCK_F)
                m_f = o_f < S
                p_w = features + o_n * S + o_s[:, None] * S + o_f[None, :]
                b_w = tl.load(p_w, mask=m_s[:, None] & m_f[None, :], other=0.0).to(DOT_DTYPE)
                p_f = p_m + o_f[:, None] * V + o_v[None, :]
                b_f = tl.load(p_f, mask=b_same & m_f[:, None] & m_v[None, :], other=0.0).to(DOT_DTYPE)
                b_m = tl.dot(b_w, b_f, b_m, input_precision=PRECISION)
        p_m += entry
        tl.store(p_m + o_m, b_m.to(history.dtype.element_ty), mask=m_m)
    tl.store(last_next_memory + i_g * S * V + o_m, b_m, mask=m_m)


def scan_normalisers(log_norm: Tensor, same: Tensor | None, next_log_norm: Tensor) -> Tensor:
    """The log-normaliser of the memory after each write [B, N, H, S]; arguments as in `scan`.

    Args:
        log_norm: of every chunk alone [B, N, H, S] float32.
    """
    batch, num_chunks, heads, key_dim = log_norm.shape
    log_norms = torch.empty_like(log_norm)
    launch = choose_launches(1, key_dim, 1, log_norm.dtype).normaliser
    normaliser_kernel[(triton.cdiv(key_dim, launch.blocks["BLOCK_S"]) * batch * heads,)](
        log_norm,
        same,
        next_log_norm,
        log_norms,
        num_chunks,
        heads,
        key_dim,
        HAS_SAME=same is not None,
        **launch.options,
    )
    return log_norms


class Written(NamedTuple):
    """What a scan over N chunks gives."""

    history: Tensor
    """[B, N + 2, H, S, V], what chunk n reads at n, in the dtype of products."""
    last_memory: Tensor
    """[B, H, S, V] float32, entry N of the history."""
    last_next_memory: Tensor
    """[B, H, S, V] float32, entry N + 1 of the history."""


def scan(
    values: Tensor,
    features: Tensor,
    same: Tensor | None,
    memory: Tensor,
    next_memory: Tensor,
    next_log_norm: Tensor,
    log_norms: Tensor,
) -> Written:
    """Write chunk after chunk, M' = exp(l - l') M + U + F M; all arguments contiguous.

    Args:
        values: U = rho K~ V [B, N, H, S, V] float32.
        features: F = -rho K~ Q~ [B, N, H, S, S]; its dtype is that of the product; [B, N, H, S, 0] without
            the delta rule.
        same: [B, N] bool, whether the memory that a chunk is written to holds its document; None where all do.
        memory: what the first chunk reads [B, H, S, V] float32.
        next_memory: what the second one reads, and what the first one is written to.
        next_log_norm: the log-normaliser of `next_memory` [B, H, S] float32.
        log_norms: what `scan_normalisers` gives.
    """
    batch, num_chunks, heads, key_dim, value_dim = values.shape
    history = features.new_empty(batch, num_chunks + 2, heads, key_dim, value_dim)
    written = Written(history, torch.empty_like(memory), torch.empty_like(memory))
    launch = choose_launches(1, key_dim, value_dim, features.dtype).scan
    scan_kernel[(triton.cdiv(value_dim, launch.blocks["BLOCK_V"]) * batch * heads,)](
        values,
        features,
        same,
        memory,
        next_memory,
        next_log_norm,
        log_norms,
        *written,
        num_chunks,
        heads,
        key_dim,
        value_dim,
        HAS_SAME=same is not None,
        DELTA_RULE=features.shape[-1] > 0,
        **product_options(features.dtype),
        **launch.options,
    )
    return written
