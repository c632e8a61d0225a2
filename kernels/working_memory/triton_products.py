"""Kernels of the big products: over the time of a chunk, over features, and over values.

Legend: i_ index of a program, o_ offsets, m_ masks, b_ values in registers, p_ pointers. Chunks outside `first` to
`last` give zeros without being read. Products accumulate in float32.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gecko_lab.kernels.working_memory.triton_launch import choose_launches, product_options
from gecko_lab.kernels.working_memory.triton_softmax import load_mask


@triton.jit
def split_program(num_columns, num_rows):
    """Column, row and chunk and head (int64) of a program; those of one chunk and head run together, for the cache."""
    i = tl.program_id(0)
    return i % num_columns, i // num_columns % num_rows, (i // num_columns // num_rows).to(tl.int64)


@triton.jit
def over_time_kernel(
    a,
    x,
    keep,
    out,
    scale,
    N,
    T,
    H,
    S,
    V,
    first,
    last,
    stride_b,
    stride_n,
    stride_t,
    stride_h,
    HAS_KEEP: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`out` [B, N, H, S, V] = `scale` Aᵀ X of every chunk and head; `a` [B, N, T, H, S] is zero where not kept.

    `x` [B, N, T, H, V] has any strides but a last one of 1, and is not loaded where not kept.
    """
    i_v, i_s, i_g = split_program(tl.cdiv(V, BLOCK_V), tl.cdiv(S, BLOCK_S))
    i_chunk, i_h = i_g // H, i_g % H
    i_n = i_chunk % N
    o_s, o_v = i_s * BLOCK_S + tl.arange(0, BLOCK_S), i_v * BLOCK_V + tl.arange(0, BLOCK_V)
    m_s, m_v = o_s < S, o_v < V
    o_r = tl.arange(0, BLOCK_T)
    p_a, o_a = a + (i_chunk * T * H + i_h) * S, o_r[:, None] * (H * S) + o_s[None, :]
    p_x = x + (i_chunk // N) * stride_b + i_n * stride_n + i_h * stride_h
    o_x = o_r[:, None] * stride_t + o_v[None, :]
    b_out = tl.zeros([BLOCK_S, BLOCK_V], tl.float32)
    for start in range(0, tl.where((i_n >= first) & (i_n < last), T, 0), BLOCK_T):
        m_t = load_mask(keep, i_chunk, start + o_r, T, HAS_KEEP)
        b_a = tl.load(p_a + o_a, mask=m_t[:, None] & m_s[None, :], other=0.0).to(DOT_DTYPE)
        b_x = tl.load(p_x + o_x, mask=m_t[:, None] & m_v[None, :], other=0.0).to(DOT_DTYPE)
        b_out = tl.dot(tl.trans(b_a), b_x, b_out, input_precision=PRECISION)
        p_a += BLOCK_T * H * S
        p_x += BLOCK_T * stride_t
    p_out = out + i_g * S * V + o_s[:, None] * V + o_v[None, :]
    tl.store(p_out, (b_out * scale).to(out.dtype.element_ty), mask=m_s[:, None] & m_v[None, :])


@triton.jit
def over_features_kernel(
    a,
    m,
    keep,
    out,
    scale,
    N,
    T,
    H,
    S,
    V,
    first,
    last,
    stride_mb,
    stride_mn,
    HAS_KEEP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_S: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`out` [B, N, T, H, V] = `scale` A M of every chunk and head, zero where not kept.

    `a` [B, N, T, H, S]; `m` [B, N - first, H, S, V] with strides `stride_mb`, `stride_mn`, contiguous within a chunk.
    """
    i_v, i_t, i_g = split_program(tl.cdiv(V, BLOCK_V), tl.cdiv(T, BLOCK_T))
    i_chunk, i_h = i_g // H, i_g % H
    i_n = i_chunk % N
    begin, o_r, o_v = i_t.to(tl.int64) * BLOCK_T, tl.arange(0, BLOCK_T), i_v * BLOCK_V + tl.arange(0, BLOCK_V)
    m_t, m_v = begin + o_r < T, o_v < V
    i_row = (i_chunk * T + begin) * H + i_h
    p_m = m + (i_chunk // N) * stride_mb + (i_n - first) * stride_mn + i_h * S * V
    b_out = tl.zeros([BLOCK_T, BLOCK_V], tl.float32)
    for start in range(0, tl.where((i_n >= first) & (i_n < last), S, 0), BLOCK_S):
        o_s = start + tl.arange(0, BLOCK_S)
        m_s = o_s < S
        o_a = o_r[:, None] * (H * S) + o_s[None, :]
        b_a = tl.load(a + i_row * S + o_a, mask=m_t[:, None] & m_s[None, :], other=0.0).to(DOT_DTYPE)
        b_m = tl.load(p_m + o_s[:, None] * V + o_v[None, :], mask=m_s[:, None] & m_v[None, :], other=0.0).to(DOT_DTYPE)
        b_out = tl.dot(b_a, b_m, b_out, input_precision=PRECISION)
    if HAS_KEEP:
        b_out = tl.where(load_mask(keep, i_chunk, begin + o_r, T, HAS_KEEP)[:, None], b_out, 0.0)
    o_out = o_r[:, None] * (H * V) + o_v[None, :]
    tl.store(out + i_row * V + o_out, (b_out * scale).to(out.dtype.element_ty), mask=m_t[:, None] & m_v[None, :])


@triton.jit
def d_features_kernel(
    g,
    history,
    same,
    d_features,
    N,
    H,
    S,
    V,
    last,
    HAS_SAME: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`d_features` [B, N, H, S, S] = -G Mᵀ of every chunk and head before `last`, zero where the memory was cleared.

    `g` [B, N, H, S, V]; `history` [B, N + 2, H, S, V], of which chunk n was written to entry n + 1.
    """
    i_f, i_s, i_g = split_program(tl.cdiv(S, BLOCK_F), tl.cdiv(S, BLOCK_S))
    i_chunk, i_h = i_g // H, i_g % H
    i_b, i_n = i_chunk // N, i_chunk % N
    o_s, o_f = i_s * BLOCK_S + tl.arange(0, BLOCK_S), i_f * BLOCK_F + tl.arange(0, BLOCK_F)
    m_s, m_f = o_s < S, o_f < S
    p_g = g + i_g * S * V
    p_m = history + ((i_b * (N + 2) + i_n + 1) * H + i_h) * S * V
    stop = tl.where(i_n < last, V, 0)
    if HAS_SAME:
        stop = tl.where(tl.load(same + i_chunk) != 0, stop, 0)
    b_out = tl.zeros([BLOCK_S, BLOCK_F], tl.float32)
    for start in range(0, stop, BLOCK_V):
        o_v = start + tl.arange(0, BLOCK_V)
        m_v = (o_v < V)[None, :]
        b_g = tl.load(p_g + o_s[:, None] * V + o_v[None, :], mask=m_s[:, None] & m_v, other=0.0).to(DOT_DTYPE)
        b_m = tl.load(p_m + o_f[:, None] * V + o_v[None, :], mask=m_f[:, None] & m_v, other=0.0).to(DOT_DTYPE)
        b_out = tl.dot(b_g, tl.trans(b_m), b_out, input_precision=PRECISION)
    p_out = d_features + i_g * S * S + o_s[:, None] * S + o_f[None, :]
    tl.store(p_out, (-b_out).to(d_features.dtype.element_ty), mask=m_s[:, None] & m_f[None, :])


def over_time(
    a: Tensor,
    x: Tensor,
    keep: Tensor | None,
    *,
    first: int = 0,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """`scale` Aᵀ X of every chunk from `first` on, zeros before.

    Args:
        a: [B, N, T, H, S], contiguous, zero where not kept.
        x: [B, N, T, H, V], its last stride 1.
        keep: [B, N, T] bool, contiguous; None for all.
        first: the first chunk that counts.
        scale: of the result.
        dtype: of the result.

    Returns:
        [B, N, H, S, V].
    """
    batch, num_chunks, timesteps, heads, key_dim = a.shape
    value_dim = x.shape[-1]
    out = x.new_empty(batch, num_chunks, heads, key_dim, value_dim, dtype=dtype)
    launch = choose_launches(timesteps, key_dim, value_dim, a.dtype).over_time
    tiles = triton.cdiv(value_dim, launch.blocks["BLOCK_V"]) * triton.cdiv(key_dim, launch.blocks["BLOCK_S"])
    over_time_kernel[(tiles * batch * num_chunks * heads,)](
        a,
        x,
        keep,
        out,
        scale,
        num_chunks,
        timesteps,
        heads,
        key_dim,
        value_dim,
        first,
        num_chunks,
        *x.stride()[:4],
        HAS_KEEP=keep is not None,
        **product_options(a.dtype),
        **launch.options,
    )
    return out


def over_features(a: Tensor, m: Tensor, keep: Tensor | None, *, first: int, last: int, scale: float = 1.0) -> Tensor:
    """`scale` A M of every chunk from `first` to before `last`, zeros elsewhere and where not kept.

    Args:
        a: [B, N, T, H, S], contiguous.
        m: [B, N - first or more, H, S, V] in the dtype of `a`, contiguous but for its first two dims.
        keep: [B, N, T] bool, contiguous; None for all.
        first: the chunk that the first of `m` is for.
        last: the chunk after the last one that counts.
        scale: of the result.

    Returns:
        [B, N, T, H, V] in the dtype of `a`.
    """
    batch, num_chunks, timesteps, heads, key_dim = a.shape
    value_dim = m.shape[-1]
    out = a.new_empty(batch, num_chunks, timesteps, heads, value_dim)
    launch = choose_launches(timesteps, key_dim, value_dim, a.dtype).over_features
    tiles = triton.cdiv(value_dim, launch.blocks["BLOCK_V"]) * triton.cdiv(timesteps, launch.blocks["BLOCK_T"])
    over_features_kernel[(tiles * batch * num_chunks * heads,)](
        a,
        m,
        keep,
        out,
        scale,
        num_chunks,
        timesteps,
        heads,
        key_dim,
        value_dim,
        first,
        last,
        *m.stride()[:2],
        HAS_KEEP=keep is not None,
        **product_options(a.dtype),
        **launch.options,
    )
    return out


def d_features(g: Tensor, history: Tensor, same: Tensor | None, last: int) -> Tensor:
    """-G Mᵀ of every chunk before `last`, zeros from there on and where the memory was cleared.

    Args:
        g: [B, N, H, S, V], contiguous.
        history: [B, N + 2, H, S, V] in the same dtype, contiguous.
        same: [B, N] bool, contiguous; None where no memory was cleared.
        last: the chunk after the last one that counts.

    Returns:
        [B, N, H, S, S] in the dtype of `g`.
    """
    batch, num_chunks, heads, key_dim, value_dim = g.shape
    out = g.new_empty(batch, num_chunks, heads, key_dim, key_dim)
    launch = choose_launches(1, key_dim, value_dim, g.dtype).d_features
    tiles = triton.cdiv(key_dim, launch.blocks["BLOCK_S"]) * triton.cdiv(key_dim, launch.blocks["BLOCK_F"])
    d_features_kernel[(tiles * batch * num_chunks * heads,)](
        g,
        history,
        same,
        out,
        num_chunks,
        heads,
        key_dim,
        value_dim,
        last,
        HAS_SAME=same is not None,
        **product_options(g.dtype),
        **launch.options,
    )
    return out
