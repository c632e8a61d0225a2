"""Kernels of the softmaxes: over the time of a chunk, and over the features of a timestep.

Legend: i_ index of a program, o_ offsets, m_ masks, b_ values in registers, p_ pointers. `x` [B, N, T, H, S] has any
strides but a last one of 1, everything else is contiguous. Masked timesteps are never loaded.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gecko_lab.kernels.working_memory.triton_launch import choose_launches, time_scale


@triton.jit
def load_rows(p_x, o_r, m_t, stride_t, o_s, S):
    """Rows `o_r` of a tile that begins at `p_x` as float32; what is masked is zero."""
    m_x = m_t[:, None] & (o_s < S)[None, :]
    return tl.load(p_x + o_r[:, None] * stride_t + o_s[None, :], mask=m_x, other=0.0).to(tl.float32)


@triton.jit
def load_mask(keep, i_chunk, o_t, T, HAS_KEEP: tl.constexpr):
    """Which of the timesteps `o_t` of a chunk exist and are kept; `keep` bool [B·N, T]."""
    m_t = o_t < T
    if HAS_KEEP:
        m_t = m_t & (tl.load(keep + i_chunk * T + o_t, mask=m_t, other=0) != 0)
    return m_t


@triton.jit
def softmax_rows(b_x, o_s, S):
    """Softmax over the features of a tile `[BLOCK_T, BLOCK_S]` that holds all of them; zero beyond `S`."""
    m_s = (o_s < S)[None, :]
    b_max = tl.max(tl.where(m_s, b_x, float("-inf")), axis=1)
    b_p = tl.where(m_s, tl.exp(b_x - b_max[:, None]), 0.0)
    return b_p / tl.sum(b_p, axis=1)[:, None]


@triton.jit
def time_log_norm_kernel(
    x,
    keep,
    log_norm,
    N,
    T,
    H,
    S,
    stride_b,
    stride_n,
    stride_t,
    stride_h,
    HAS_KEEP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """`log_norm` float32 [B, N, H, S] = logsumexp of `x` over the kept timesteps of each chunk, at least one."""
    num_s = tl.cdiv(S, BLOCK_S)
    i_s, i_h = tl.program_id(0) % num_s, tl.program_id(0) // num_s % H
    i_chunk = (tl.program_id(0) // num_s // H).to(tl.int64)
    o_s = i_s * BLOCK_S + tl.arange(0, BLOCK_S)
    p_x = x + (i_chunk // N) * stride_b + (i_chunk % N) * stride_n + i_h * stride_h
    b_max = tl.full([BLOCK_T, BLOCK_S], float("-inf"), tl.float32)
    b_sum = tl.zeros([BLOCK_T, BLOCK_S], tl.float32)
    o_r = tl.arange(0, BLOCK_T)
    for start in range(0, T, BLOCK_T):
        m_t = load_mask(keep, i_chunk, start + o_r, T, HAS_KEEP)
        b_x = tl.where(m_t[:, None], load_rows(p_x, o_r, m_t, stride_t, o_s, S), float("-inf"))
        p_x += BLOCK_T * stride_t
        b_next = tl.maximum(b_max, b_x)
        b_base = tl.where(b_next == float("-inf"), 0.0, b_next)
        b_sum = b_sum * tl.exp(b_max - b_base) + tl.exp(b_x - b_base)
        b_max = b_next
    b_top = tl.max(b_max, axis=0)
    b_total = tl.sum(b_sum * tl.exp(b_max - b_top[None, :]), axis=0)
    tl.store(log_norm + (i_chunk * H + i_h) * S + o_s, b_top + tl.log(b_total), mask=o_s < S)


@triton.jit
def softmax_kernel(
    x,
    keep,
    log_norm,
    over_time,
    over_features,
    scale,
    N,
    T,
    H,
    S,
    stride_b,
    stride_n,
    stride_t,
    stride_h,
    HAS_KEEP: tl.constexpr,
    OVER_TIME: tl.constexpr,
    OVER_FEATURES: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """The softmaxes of `x` over time, `scale exp(x - log_norm)`, and features [B, N, T, H, S], zero where not kept."""
    num_t = tl.cdiv(T, BLOCK_T)
    i_h, i_t = tl.program_id(0) % H, tl.program_id(0) // H % num_t
    i_chunk = (tl.program_id(0) // H // num_t).to(tl.int64)
    start, o_r, o_s = i_t.to(tl.int64) * BLOCK_T, tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_S)
    m_t = load_mask(keep, i_chunk, start + o_r, T, HAS_KEEP)
    p_x = x + (i_chunk // N) * stride_b + (i_chunk % N) * stride_n + start * stride_t + i_h * stride_h
    b_x = load_rows(p_x, o_r, m_t, stride_t, o_s, S)
    i_y, o_y = ((i_chunk * T + start) * H + i_h) * S, o_r[:, None] * (H * S) + o_s[None, :]
    m_y = (start + o_r < T)[:, None] & (o_s < S)[None, :]
    if OVER_TIME:
        b_log_norm = tl.load(log_norm + (i_chunk * H + i_h) * S + o_s, mask=o_s < S, other=0.0)
        b_y = tl.where(m_t[:, None], tl.exp(b_x - b_log_norm[None, :]) * scale, 0.0)
        tl.store(over_time + i_y + o_y, b_y.to(over_time.dtype.element_ty), mask=m_y)
    if OVER_FEATURES:
        b_y = tl.where(m_t[:, None], softmax_rows(b_x, o_s, S), 0.0)
        tl.store(over_features + i_y + o_y, b_y.to(over_features.dtype.element_ty), mask=m_y)


def time_log_norm(x: Tensor, keep: Tensor | None) -> Tensor:
    """L = log(sum(exp(x))) over the kept timesteps of each chunk, at least one.

    Args:
        x: [B, N, T, H, S], its last stride 1.
        keep: [B, N, T] bool, contiguous; None for all.

    Returns:
        [B, N, H, S] float32.
    """
    batch, num_chunks, timesteps, heads, key_dim = x.shape
    log_norm = x.new_empty(batch, num_chunks, heads, key_dim, dtype=torch.float32)
    launch = choose_launches(timesteps, key_dim, 1, x.dtype).time_log_norm
    grid = (triton.cdiv(key_dim, launch.blocks["BLOCK_S"]) * batch * num_chunks * heads,)
    time_log_norm_kernel[grid](
        x,
        keep,
        log_norm,
        num_chunks,
        timesteps,
        heads,
        key_dim,
        *x.stride()[:4],
        HAS_KEEP=keep is not None,
        **launch.options,
    )
    return log_norm


def softmaxes(
    x: Tensor, keep: Tensor | None, dtype: torch.dtype, *, log_norm: Tensor | None = None, features: bool = True
) -> tuple[Tensor | None, Tensor | None]:
    """Softmaxes over time, times `time_scale(dtype)`, and over features, zero where not kept, as operands of products.

    Args:
        x: [B, N, T, H, S], its last stride 1.
        keep: [B, N, T] bool, contiguous; None for all.
        dtype: of the results.
        log_norm: what is subtracted before the exponential over time, [B, N, H, S] float32; None leaves that one out.
        features: False leaves the softmax over features out.

    Returns:
        [B, N, T, H, S] each, contiguous; None for what is left out.
    """
    batch, num_chunks, timesteps, heads, key_dim = x.shape
    over_time = None if log_norm is None else x.new_empty(x.shape, dtype=dtype)
    over_features = x.new_empty(x.shape, dtype=dtype) if features else None
    launch = choose_launches(timesteps, key_dim, 1, dtype).softmax
    softmax_kernel[(heads * triton.cdiv(timesteps, launch.blocks["BLOCK_T"]) * batch * num_chunks,)](
        x,
        keep,
        log_norm,
        over_time,
        over_features,
        time_scale(dtype),
        num_chunks,
        timesteps,
        heads,
        key_dim,
        *x.stride()[:4],
        HAS_KEEP=keep is not None,
        OVER_TIME=over_time is not None,
        OVER_FEATURES=features,
        **launch.options,
    )
    return over_time, over_features
