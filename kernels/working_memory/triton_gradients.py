"""Kernels of the gradients of queries and keys: products over values, then backwards through the softmaxes.

Legend: i_ index of a program, o_ offsets, m_ masks, b_ values in registers, p_ pointers. A program computes all
features of some timesteps of one head. Chunks outside `first` to `last` give zeros without their memory being read.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gecko_lab.kernels.working_memory.triton_launch import choose_launches, product_options, time_scale
from gecko_lab.kernels.working_memory.triton_softmax import load_mask, load_rows, softmax_rows


@triton.jit
def add_over_values(
    b_sum,
    p_x,
    p_m,
    o_r,
    m_t,
    o_s,
    S,
    V,
    stop,
    stride_t,
    BLOCK_V: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add `X Mᵀ` [BLOCK_T, BLOCK_S], summed over the first `stop` of `V` values."""
    for start in range(0, stop, BLOCK_V):
        o_v = start + tl.arange(0, BLOCK_V)
        m_v = (o_v < V)[None, :]
        o_x = o_r[:, None] * stride_t + o_v[None, :]
        b_x = tl.load(p_x + o_x, mask=m_t[:, None] & m_v, other=0.0).to(DOT_DTYPE)
        b_m = tl.load(p_m + o_s[:, None] * V + o_v[None, :], mask=(o_s < S)[:, None] & m_v, other=0.0).to(DOT_DTYPE)
        b_sum = tl.dot(b_x, tl.trans(b_m), b_sum, input_precision=PRECISION)
    return b_sum


@triton.jit
def softmax_gradient_kernel(
    x,
    dy,
    m,
    holds,
    dx,
    scale,
    N,
    T,
    H,
    S,
    V,
    first,
    last,
    stride_xb,
    stride_xn,
    stride_xt,
    stride_xh,
    stride_yb,
    stride_yn,
    stride_yt,
    stride_yh,
    stride_mb,
    stride_mn,
    HAS_KEEP: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`dx` [B, N, T, H, S] = P (dP - rowsum(P dP)), P = softmax(x), dP = `scale` dy Mᵀ; zero where not held.

    `x` [B, N, T, H, S] and `dy` [B, N, T, H, V] have any strides but a last one of 1, `m` as in `over_features_kernel`.
    """
    num_t = tl.cdiv(T, BLOCK_T)
    i_t, i_g = tl.program_id(0) % num_t, (tl.program_id(0) // num_t).to(tl.int64)
    i_chunk, i_h = i_g // H, i_g % H
    i_b, i_n = i_chunk // N, i_chunk % N
    start, o_r, o_s = i_t.to(tl.int64) * BLOCK_T, tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_S)
    m_t = load_mask(holds, i_chunk, start + o_r, T, HAS_KEEP)
    p_y = dy + i_b * stride_yb + i_n * stride_yn + start * stride_yt + i_h * stride_yh
    p_m = m + i_b * stride_mb + (i_n - first) * stride_mn + i_h * S * V
    stop = tl.where((i_n >= first) & (i_n < last), V, 0)
    b_dp = tl.zeros([BLOCK_T, BLOCK_S], tl.float32)
    b_dp = add_over_values(b_dp, p_y, p_m, o_r, m_t, o_s, S, V, stop, stride_yt, BLOCK_V, DOT_DTYPE, PRECISION)
    b_dp *= scale
    p_x = x + i_b * stride_xb + i_n * stride_xn + start * stride_xt + i_h * stride_xh
    b_p = softmax_rows(load_rows(p_x, o_r, m_t, stride_xt, o_s, S), o_s, S)
    b_dx = b_p * (b_dp - tl.sum(b_p * b_dp, axis=1)[:, None])
    b_dx = tl.where(m_t[:, None], b_dx, 0.0)
    p_dx = dx + ((i_chunk * T + start) * H + i_h) * S + o_r[:, None] * (H * S) + o_s[None, :]
    tl.store(p_dx, b_dx.to(dx.dtype.element_ty), mask=(start + o_r < T)[:, None] & (o_s < S)[None, :])


@triton.jit
def dk_kernel(
    k,
    v,
    over_features,
    dk_features,
    log_norm,
    correction,
    g,
    d_features,
    keep,
    dk,
    N,
    T,
    H,
    S,
    V,
    last,
    stride_kb,
    stride_kn,
    stride_kt,
    stride_kh,
    stride_vb,
    stride_vn,
    stride_vt,
    stride_vh,
    HAS_KEEP: tl.constexpr,
    DELTA_RULE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_V: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`dk` [B, N, T, H, S] = K~ᵀ (V gᵀ + Q~ hᵀ + correction) + `dk_features`; zero where not kept.

    `k`, `v` have any strides but a last one of 1; `over_features` Q~ and `dk_features` [B, N, T, H, S]; `g` = dX
    [B, N, H, S, V]; `d_features` h = dW [B, N, H, S, S]; `log_norm`, `correction` float32 [B, N, H, S].
    """
    num_t = tl.cdiv(T, BLOCK_T)
    i_t, i_g = tl.program_id(0) % num_t, (tl.program_id(0) // num_t).to(tl.int64)
    i_chunk, i_h = i_g // H, i_g % H
    i_b, i_n = i_chunk // N, i_chunk % N
    start, o_r, o_s = i_t.to(tl.int64) * BLOCK_T, tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_S)
    m_t, m_s = load_mask(keep, i_chunk, start + o_r, T, HAS_KEEP), o_s < S
    p_v = v + i_b * stride_vb + i_n * stride_vn + start * stride_vt + i_h * stride_vh
    stop = tl.where(i_n < last, V, 0)
    b_d = tl.zeros([BLOCK_T, BLOCK_S], tl.float32)
    b_d = add_over_values(
        b_d, p_v, g + i_g * S * V, o_r, m_t, o_s, S, V, stop, stride_vt, BLOCK_V, DOT_DTYPE, PRECISION
    )
    i_row = ((i_chunk * T + start) * H + i_h) * S
    if DELTA_RULE:
        stop = tl.where(i_n < last, S, 0)
        p_a, p_h = over_features + i_row, d_features + i_g * S * S
        b_d = add_over_values(b_d, p_a, p_h, o_r, m_t, o_s, S, S, stop, H * S, BLOCK_V, DOT_DTYPE, PRECISION)
    p_k = k + i_b * stride_kb + i_n * stride_kn + start * stride_kt + i_h * stride_kh
    b_log_norm = tl.load(log_norm + i_g * S + o_s, mask=m_s, other=0.0)
    b_d += tl.load(correction + i_g * S + o_s, mask=m_s & (i_n < last), other=0.0)[None, :]
    b_d *= tl.exp(load_rows(p_k, o_r, m_t, stride_kt, o_s, S) - b_log_norm[None, :])
    if DELTA_RULE:
        b_d += load_rows(dk_features + i_row, o_r, m_t, H * S, o_s, S)
    b_d = tl.where(m_t[:, None], b_d, 0.0)
    p_dk = dk + i_row + o_r[:, None] * (H * S) + o_s[None, :]
    tl.store(p_dk, b_d.to(dk.dtype.element_ty), mask=(start + o_r < T)[:, None] & m_s[None, :])


def softmax_gradient(
    x: Tensor,
    dy: Tensor,
    m: Tensor,
    holds: Tensor | None,
    *,
    first: int,
    last: int,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> Tensor:
    """Gradient of x through y = softmax(x) M, the softmax over features, where the gradient of y is `scale` dy.

    Args:
        x: [B, N, T, H, S], its last stride 1.
        dy: [B, N, T, H, V], its last stride 1.
        m: [B, N - first or more, H, S, V], contiguous but for its first two dims; its dtype is that of the product.
        holds: [B, N, T] bool, contiguous; None for all.
        first: the chunk that the first of `m` is for; those before get zeros.
        last: the chunk after the last one that counts; it and those after it get zeros.
        dtype: of the result.
        scale: what `dy` is multiplied with.

    Returns:
        [B, N, T, H, S], contiguous.
    """
    batch, num_chunks, timesteps, heads, key_dim = x.shape
    dx = x.new_empty(x.shape, dtype=dtype)
    launch = choose_launches(timesteps, key_dim, dy.shape[-1], m.dtype).softmax_gradient
    softmax_gradient_kernel[(triton.cdiv(timesteps, launch.blocks["BLOCK_T"]) * batch * num_chunks * heads,)](
        x,
        dy,
        m,
        holds,
        dx,
        scale,
        num_chunks,
        timesteps,
        heads,
        key_dim,
        dy.shape[-1],
        first,
        last,
        *x.stride()[:4],
        *dy.stride()[:4],
        *m.stride()[:2],
        HAS_KEEP=holds is not None,
        **product_options(m.dtype),
        **launch.options,
    )
    return dx


def key_gradient(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    over_time: Tensor,
    over_features: Tensor | None,
    log_norm: Tensor,
    correction: Tensor,
    g: Tensor,
    d_features: Tensor,
    last: int,
) -> Tensor:
    """Gradient of k through the sums of the chunks before `last`, zeros from there on.

        dK~ᵀ = V gᵀ + Q~ hᵀ        dQ~ = K~ᵀ h        dk = K~ᵀ (dK~ᵀ + correction) + Q~ (dQ~ - rowsum(Q~ dQ~))

    Args:
        k: [B, N, T, H, S], its last stride 1.
        v: [B, N, T, H, V], its last stride 1.
        keep: [B, N, T] bool, contiguous; None for all.
        over_time, over_features: softmaxes of k [B, N, T, H, S], contiguous; without the delta rule only the first.
        log_norm, correction: [B, N, H, S] float32, contiguous.
        g: gradient of K~ V [B, N, H, S, V], contiguous; its dtype is that of the product.
        d_features: h, gradient of K~ Q~ [B, N, H, S, S], contiguous; [B, N, H, S, 0] without the delta rule.
        last: the chunk after the last one that counts.

    Returns:
        [B, N, T, H, S], contiguous.
    """
    batch, num_chunks, timesteps, heads, key_dim = k.shape
    dk, dk_features = k.new_empty(k.shape), None
    if over_features is not None:
        # Both parts in one kernel would not fit into registers.
        dk_features = softmax_gradient(
            k,
            over_time,
            d_features.mT.contiguous(),
            keep,
            first=0,
            last=last,
            dtype=k.dtype,
            scale=1 / time_scale(g.dtype),
        )
    launch = choose_launches(timesteps, key_dim, v.shape[-1], g.dtype).dk
    dk_kernel[(triton.cdiv(timesteps, launch.blocks["BLOCK_T"]) * batch * num_chunks * heads,)](
        k,
        v,
        over_features,
        dk_features,
        log_norm,
        correction,
        g,
        d_features,
        keep,
        dk,
        num_chunks,
        timesteps,
        heads,
        key_dim,
        v.shape[-1],
        last,
        *k.stride()[:4],
        *v.stride()[:4],
        HAS_KEEP=keep is not None,
        DELTA_RULE=over_features is not None,
        **product_options(g.dtype),
        **launch.options,
    )
    return dk
