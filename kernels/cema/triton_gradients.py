"""Gradients of the parameters: correlations of x and dy inside spans, then sums over programs.

Within a span that begins with an empty state, y depends on q alone up to factors: with c_t the correlation of dy with
the x of t timesteps before, everything follows from `F = Σ c_t q^t` and its derivative. Lags within a block come from
products of blocks, longer ones from states with unit weights, r = Σ q^{m-1-t} x_t, and their derivatives s = ∂r/∂q.
What enters and leaves a span comes from the states at its edges.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from gecko_lab.kernels.cema.triton_blocks import (
    block_offsets,
    load_documents,
    load_table,
    number_product,
    span_places,
)
from gecko_lab.kernels.cema.triton_powers import load_number, multiply, power, store_number

# Sums over a group of spans, numbers [D, N] each: F, F', z h, z' h, g r, g s, g m q^{m-1} h,
# with g = conj(∂loss/∂h) after a span, h the state before it, z = Σ q^t dy_t over its m timesteps.
NUM_SUMS = tl.constexpr(7)


@triton.jit
def add_over_columns(sum_re, sum_im, a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    """Add `Σ a b` over columns to [BLOCK_D, N]."""
    re, im = multiply(a_re, a_im, b_re, b_im, COMPLEX)
    sum_re += tl.sum(re, axis=2)
    if COMPLEX:
        sum_im += tl.sum(im, axis=2)
    return sum_re, sum_im


@triton.jit
def correlations_kernel(
    x_ptr,  # [B, L, D]
    dy_ptr,  # [B, L, D]
    documents_ptr,  # [B, L + 2] or None
    powers_ptr,
    derivatives_ptr,
    carries_ptr,
    ends_ptr,  # [B · num_spans, 2 R, D, N]: r and s after every span
    sums_ptr,  # [num_groups, 7, R, D, N]: the first two
    lags_ptr,  # [num_groups, D, T, T]: Σ x_j dy_{T-1-i}
    length,
    num_features,
    num_columns,
    num_spans,
    blocks_per_span,
    num_blocks,
    COMPLEX: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Of one group of M spans and BLOCK_D channels. dy is read backwards within blocks.

    Of a block in which documents begin, `lags` has the timesteps before; `begun_correlations_kernel` has the others.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    is_feature = d < num_features
    feature_mask = is_feature[:, None, None]
    powers_re = load_table(powers_ptr, d, num_features, 0, N, T, False, False, DOT_DTYPE)
    derivatives_re = load_table(derivatives_ptr, d, num_features, 0, N, T, False, False, DOT_DTYPE)
    powers_im, derivatives_im = powers_re, derivatives_re
    if COMPLEX:
        powers_im = load_table(powers_ptr, d, num_features, 1, N, T, False, False, DOT_DTYPE)
        derivatives_im = load_table(derivatives_ptr, d, num_features, 1, N, T, False, False, DOT_DTYPE)
    of_number = d[:, None] * N + n[None, :]
    of_carry = of_number[:, :, None]
    plane = num_features * N
    carry_re, carry_im = load_number(carries_ptr, of_carry, plane, feature_mask, COMPLEX)
    slope_re, slope_im = load_number(carries_ptr + 2 * plane, of_carry, plane, feature_mask, COMPLEX)
    lags = tl.zeros((BLOCK_D, T, T), tl.float32)
    zero = tl.zeros((BLOCK_D, N), tl.float32)
    f_re, f_im, fd_re, fd_im = zero, zero, zero, zero  # F and F'

    column = tl.program_id(1) * M + tl.arange(0, M)
    row, first, count = span_places(column, num_columns, num_spans, blocks_per_span, num_blocks)
    r_re = tl.zeros((BLOCK_D, N, M), tl.float32)
    r_im, s_re, s_im = r_re, r_re, r_re
    for step in range(blocks_per_span):
        valid = step < count
        block = first + step
        in_block = feature_mask & valid[None, None, :]
        offsets = block_offsets(row, block, length, d, num_features, T, False)
        x = tl.load(x_ptr + offsets, mask=in_block, other=0.0).to(DOT_DTYPE)
        offsets = block_offsets(row, block, length, d, num_features, T, True)
        x_last = x
        if documents_ptr is not None:
            inside, before, end = load_documents(documents_ptr, row, block, valid, length, T, False)
            backwards, _, _ = load_documents(documents_ptr, row, block, valid, length, T, True)
            in_block &= (backwards == before[None, :])[None, :, :]
            unbroken = before == end
            x_last = tl.where((inside == end[None, :])[None, :, :], x, 0.0)
        dy = tl.load(dy_ptr + offsets, mask=in_block, other=0.0).to(DOT_DTYPE)
        # A dy before the first start of a block meets only x before it: others lie above the diagonal, never read.
        lags = tl.dot(x, tl.permute(dy, (0, 2, 1)), lags, input_precision=PRECISION)

        z_re, z_im = number_product(powers_re, powers_im, dy, PRECISION, COMPLEX)
        f_re, f_im = add_over_columns(f_re, f_im, z_re, z_im, r_re, r_im, COMPLEX)
        fd_re, fd_im = add_over_columns(fd_re, fd_im, z_re, z_im, s_re, s_im, COMPLEX)
        z_re, z_im = number_product(derivatives_re, derivatives_im, dy, PRECISION, COMPLEX)
        fd_re, fd_im = add_over_columns(fd_re, fd_im, z_re, z_im, r_re, r_im, COMPLEX)

        kept_re, kept_im = multiply(carry_re, carry_im, s_re, s_im, COMPLEX)
        moved_re, moved_im = multiply(slope_re, slope_im, r_re, r_im, COMPLEX)
        kept_re, kept_im = kept_re + moved_re, kept_im + moved_im
        moved_re, moved_im = multiply(carry_re, carry_im, r_re, r_im, COMPLEX)
        if documents_ptr is not None:
            kept_re = tl.where(unbroken[None, None, :], kept_re, 0.0)
            kept_im = tl.where(unbroken[None, None, :], kept_im, 0.0)
            moved_re = tl.where(unbroken[None, None, :], moved_re, 0.0)
            moved_im = tl.where(unbroken[None, None, :], moved_im, 0.0)
        added_re, added_im = number_product(derivatives_re, derivatives_im, x_last, PRECISION, COMPLEX)
        s_re = tl.where(valid[None, None, :], kept_re + added_re, s_re)
        s_im = tl.where(valid[None, None, :], kept_im + added_im, s_im)
        added_re, added_im = number_product(powers_re, powers_im, x_last, PRECISION, COMPLEX)
        r_re = tl.where(valid[None, None, :], moved_re + added_re, r_re)
        r_im = tl.where(valid[None, None, :], moved_im + added_im, r_im)

    of_column = column.to(tl.int64)[None, None, :] * (2 * PARTS * plane) + of_carry
    mask = feature_mask & (column < num_columns)[None, None, :]
    store_number(ends_ptr, of_column, plane, r_re, r_im, mask, COMPLEX)
    store_number(ends_ptr + PARTS * plane, of_column, plane, s_re, s_im, mask, COMPLEX)

    mask = is_feature[:, None]
    out = sums_ptr + tl.program_id(1).to(tl.int64) * (NUM_SUMS * PARTS * plane)
    store_number(out, of_number, plane, f_re, f_im, mask, COMPLEX)
    store_number(out + PARTS * plane, of_number, plane, fd_re, fd_im, mask, COMPLEX)
    store_lags(lags_ptr, tl.program_id(1), d, num_features, lags, T)


@triton.jit
def begun_correlations_kernel(
    x_ptr,  # [B, L, D]
    dy_ptr,  # [B, L, D]
    documents_ptr,  # [B, L + 2]
    num_documents_ptr,  # [1]: the most documents that begin within a block
    lags_ptr,  # [num_groups, D, T, T]
    length,
    num_features,
    num_columns,
    num_spans,
    blocks_per_span,
    num_blocks,
    T: tl.constexpr,
    M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The correlations within blocks of the documents that begin there: the first of a block, the second, …"""
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    feature_mask = (d < num_features)[:, None, None]
    column = tl.program_id(1) * M + tl.arange(0, M)
    row, first, count = span_places(column, num_columns, num_spans, blocks_per_span, num_blocks)
    lags = tl.zeros((BLOCK_D, T, T), tl.float32)
    for index in range(1, tl.load(num_documents_ptr) + 1):
        for step in range(blocks_per_span):
            valid = step < count
            block = first + step
            inside, before, end = load_documents(documents_ptr, row, block, valid, length, T, False)
            document = tl.where(valid & (before + index <= end), before + index, -1)
            if tl.max(document, axis=0) >= 0:
                here = (inside == document[None, :])[None, :, :] & feature_mask
                offsets = block_offsets(row, block, length, d, num_features, T, False)
                x = tl.load(x_ptr + offsets, mask=here, other=0.0).to(DOT_DTYPE)
                inside, _, _ = load_documents(documents_ptr, row, block, valid, length, T, True)
                here = (inside == document[None, :])[None, :, :] & feature_mask
                offsets = block_offsets(row, block, length, d, num_features, T, True)
                dy = tl.load(dy_ptr + offsets, mask=here, other=0.0).to(DOT_DTYPE)
                lags = tl.dot(x, tl.permute(dy, (0, 2, 1)), lags, input_precision=PRECISION)
    store_lags(lags_ptr, tl.program_id(1), d, num_features, lags, T)


@triton.jit
def store_lags(pointer, group, d, num_features, lags, T: tl.constexpr):
    """Write [BLOCK_D, T, T] to `[num_groups, D, T, T]`."""
    i, j = tl.arange(0, T)[None, :, None], tl.arange(0, T)[None, None, :]
    offsets = ((group.to(tl.int64) * num_features + d)[:, None, None] * T + i) * T + j
    tl.store(pointer + offsets, lags, mask=(d < num_features)[:, None, None])


@triton.jit
def edges_kernel(
    documents_ptr,  # [B, L + 2] or None
    carries_ptr,
    states_ptr,  # [B · num_spans, R, D, N]: h before every span
    gradients_ptr,  # [B · num_spans, R, D, N]: conj(∂loss/∂h) after every span
    readings_ptr,  # [B · num_spans, 2 R, D, N]: Σ q^t dy_t over every span and its derivative
    ends_ptr,  # [B · num_spans, 2 R, D, N]: r and s after every span
    sums_ptr,  # [num_groups, 7, R, D, N]: all but the first two
    length,
    num_features,
    num_columns,
    num_spans,
    span_length,
    last_span_length,
    COMPLEX: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What the state before a span gives to its outputs, and the whole span to the state after, over M spans."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    mask = (d < num_features)[:, None]
    of_number = d[:, None] * N + n[None, :]
    plane = num_features * N
    zero = tl.zeros((BLOCK_D, N), tl.float32)
    zh_re, zh_im, zdh_re, zdh_im = zero, zero, zero, zero
    gr_re, gr_im, gs_re, gs_im, gh_re, gh_im = zero, zero, zero, zero, zero, zero
    first = tl.program_id(1) * M
    for step in range(tl.minimum(M, num_columns - first)):
        column = first + step
        row, span = column // num_spans, column % num_spans
        is_last = span == num_spans - 1
        reads, leaves, passes = True, True, True
        if documents_ptr is not None:
            begin = documents_ptr + row.to(tl.int64) * (length + 2) + span * span_length + 1
            end = begin + tl.where(is_last, last_span_length, span_length)
            before, after = tl.load(begin - 1), tl.load(end)
            reads, leaves, passes = before == tl.load(begin), after == tl.load(end - 1), before == after
        one = column.to(tl.int64) * (PARTS * plane)
        g_re, g_im = load_number(gradients_ptr + one, of_number, plane, mask, COMPLEX)
        h_re, h_im = load_number(states_ptr + one, of_number, plane, mask, COMPLEX)
        ends = ends_ptr + 2 * one
        re, im = load_number(ends, of_number, plane, mask, COMPLEX)
        gr_re, gr_im = add_product(gr_re, gr_im, g_re, g_im, re, im, leaves, COMPLEX)
        re, im = load_number(ends + PARTS * plane, of_number, plane, mask, COMPLEX)
        gs_re, gs_im = add_product(gs_re, gs_im, g_re, g_im, re, im, leaves, COMPLEX)
        slope = carries_ptr + (tl.where(is_last, 2, 1) * 4 + 2) * plane
        re, im = load_number(slope, of_number, plane, mask, COMPLEX)
        re, im = multiply(re, im, g_re, g_im, COMPLEX)
        gh_re, gh_im = add_product(gh_re, gh_im, re, im, h_re, h_im, passes, COMPLEX)
        readings = readings_ptr + 2 * one
        re, im = load_number(readings, of_number, plane, mask, COMPLEX)
        zh_re, zh_im = add_product(zh_re, zh_im, re, im, h_re, h_im, reads, COMPLEX)
        re, im = load_number(readings + PARTS * plane, of_number, plane, mask, COMPLEX)
        zdh_re, zdh_im = add_product(zdh_re, zdh_im, re, im, h_re, h_im, reads, COMPLEX)
    out = sums_ptr + tl.program_id(1).to(tl.int64) * (NUM_SUMS * PARTS * plane)
    store_number(out + 2 * PARTS * plane, of_number, plane, zh_re, zh_im, mask, COMPLEX)
    store_number(out + 3 * PARTS * plane, of_number, plane, zdh_re, zdh_im, mask, COMPLEX)
    store_number(out + 4 * PARTS * plane, of_number, plane, gr_re, gr_im, mask, COMPLEX)
    store_number(out + 5 * PARTS * plane, of_number, plane, gs_re, gs_im, mask, COMPLEX)
    store_number(out + 6 * PARTS * plane, of_number, plane, gh_re, gh_im, mask, COMPLEX)


@triton.jit
def add_product(sum_re, sum_im, a_re, a_im, b_re, b_im, taken, COMPLEX: tl.constexpr):
    """`sum + a b` where it is taken."""
    re, im = multiply(a_re, a_im, b_re, b_im, COMPLEX)
    return tl.where(taken, sum_re + re, sum_re), tl.where(taken, sum_im + im, sum_im)


@triton.jit
def parameters_kernel(
    sums_ptr,  # [num_groups, 7, R, D, N]
    lags_ptr,  # [num_lags, D, T, T]
    q_ptr,  # [R, D, num_states] float64
    p_ptr,
    gamma_ptr,
    dp_ptr,  # [D, num_states]
    dq_ptr,  # [R, D, num_states]: ∂/∂re + i ∂/∂im
    dgamma_ptr,  # [D, num_states, R]
    num_features,
    num_states,
    num_groups,
    num_lags,
    COMPLEX: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The sums of all programs, always in the same order, to the gradients of p, q and γ."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    t = tl.arange(0, T)
    is_feature = d < num_features
    is_state = is_feature[:, None] & (n < num_states)[None, :]
    of_parameter = d[:, None] * num_states + n[None, :]
    of_number = d[:, None] * N + n[None, :]
    plane = num_features * N
    mask = is_feature[:, None]
    # Equal lags stand on the antidiagonals: the row of lag t holds i = T - 1 - t - j.
    i = T - 1 - t[:, None] - t[None, :]
    in_lag = (i >= 0)[None, :, :] & is_feature[:, None, None]
    of_lag = (d[:, None, None] * T + t[None, None, :]) * T + i[None, :, :]
    lag = tl.zeros((BLOCK_D, T, T), tl.float32)
    zero = tl.zeros((BLOCK_D, N), tl.float32)
    f_re, f_im, fd_re, fd_im = zero, zero, zero, zero
    zh_re, zh_im, zdh_re, zdh_im = zero, zero, zero, zero
    gr_re, gr_im, gs_re, gs_im, gh_re, gh_im = zero, zero, zero, zero, zero, zero
    for k in range(num_groups):
        one = sums_ptr + k * (NUM_SUMS * PARTS * plane)
        re, im = load_number(one, of_number, plane, mask, COMPLEX)
        f_re, f_im = f_re + re, f_im + im
        re, im = load_number(one + PARTS * plane, of_number, plane, mask, COMPLEX)
        fd_re, fd_im = fd_re + re, fd_im + im
        re, im = load_number(one + 2 * PARTS * plane, of_number, plane, mask, COMPLEX)
        zh_re, zh_im = zh_re + re, zh_im + im
        re, im = load_number(one + 3 * PARTS * plane, of_number, plane, mask, COMPLEX)
        zdh_re, zdh_im = zdh_re + re, zdh_im + im
        re, im = load_number(one + 4 * PARTS * plane, of_number, plane, mask, COMPLEX)
        gr_re, gr_im = gr_re + re, gr_im + im
        re, im = load_number(one + 5 * PARTS * plane, of_number, plane, mask, COMPLEX)
        gs_re, gs_im = gs_re + re, gs_im + im
        re, im = load_number(one + 6 * PARTS * plane, of_number, plane, mask, COMPLEX)
        gh_re, gh_im = gh_re + re, gh_im + im
    for k in range(num_lags):
        lag += tl.load(lags_ptr + k * num_features * T * T + of_lag, mask=in_lag, other=0.0)

    q_re, q_im = load_number(q_ptr, of_parameter, num_features * num_states, is_state, COMPLEX)
    before = tl.maximum(t - 1, 0)[None, None, :]
    power_re, power_im = power(q_re[:, :, None], q_im[:, :, None], before, 6, COMPLEX)  # q^{t-1}
    lag_sums = tl.sum(lag, axis=2)[:, None, :]
    slope = lag_sums * t.to(tl.float32)[None, None, :]
    q_re, q_im = q_re.to(tl.float32), q_im.to(tl.float32)
    next_re, next_im = multiply(q_re, q_im, fd_re, fd_im, COMPLEX)
    fd_re = f_re + next_re + tl.sum(power_re.to(tl.float32) * slope, axis=2)
    fd_im = f_im + next_im + tl.sum(power_im.to(tl.float32) * slope, axis=2)
    later_re, later_im = multiply(
        q_re.to(power_re.dtype)[:, :, None], q_im.to(power_re.dtype)[:, :, None], power_re, power_im, COMPLEX
    )
    is_zero = (t == 0)[None, None, :]
    power_re, power_im = tl.where(is_zero, 1.0, later_re), tl.where(is_zero, 0.0, later_im)
    f_re, f_im = multiply(q_re, q_im, f_re, f_im, COMPLEX)
    f_re += tl.sum(power_re.to(tl.float32) * lag_sums, axis=2)
    f_im += tl.sum(power_im.to(tl.float32) * lag_sums, axis=2)

    p = tl.load(p_ptr + of_parameter, mask=is_state, other=0.0)
    gamma_re, gamma_im = load_number(gamma_ptr, of_parameter * PARTS, 1, is_state, COMPLEX)
    re, im = multiply(gamma_re, gamma_im, f_re, f_im, COMPLEX)
    tl.store(dp_ptr + of_parameter, re + gr_re, mask=is_state)
    re, im = multiply(q_re, q_im, zh_re, zh_im, COMPLEX)
    store_number(dgamma_ptr, of_parameter * PARTS, 1, p * f_re + re, -(p * f_im + im), is_state, COMPLEX)
    re, im = multiply(q_re, q_im, zdh_re, zdh_im, COMPLEX)
    re, im = multiply(gamma_re, gamma_im, p * fd_re + zh_re + re, p * fd_im + zh_im + im, COMPLEX)
    re, im = re + p * gs_re + gh_re, im + p * gs_im + gh_im
    store_number(dq_ptr, of_parameter, num_features * num_states, re, -im, is_state, COMPLEX)
