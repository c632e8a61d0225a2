"""States at the edges of spans: what every span adds on its own, then the recurrence over spans."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from gecko_lab.kernels.cema.triton_blocks import (
    block_at,
    block_offsets,
    load_documents,
    load_table,
    number_product,
    span_places,
)
from gecko_lab.kernels.cema.triton_powers import load_number, multiply, store_number


@triton.jit
def span_sums_kernel(
    x_ptr,  # [B, L, D]
    documents_ptr,  # [B, L + 2] or None
    powers_ptr,
    derivatives_ptr,  # or None: without derivatives
    carries_ptr,
    sums_ptr,  # [B · num_spans, R or 2 R, D, N]
    length,
    num_features,
    num_columns,
    num_spans,
    blocks_per_span,
    num_blocks,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    M: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """`Σ q^{m-1-t} x_t` over the m timesteps of each span, read forwards or backwards, and its derivative by q.

    Only the timesteps of the document that is being read at the span's end count.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    PLANES: tl.constexpr = PARTS if derivatives_ptr is None else 2 * PARTS
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    is_feature = d < num_features
    column = tl.program_id(1) * M + tl.arange(0, M)
    row, first, count = span_places(column, num_columns, num_spans, blocks_per_span, num_blocks)
    powers_re = load_table(powers_ptr, d, num_features, 0, N, T, False, False, DOT_DTYPE)
    powers_im = powers_re
    if COMPLEX:
        powers_im = load_table(powers_ptr, d, num_features, 1, N, T, False, False, DOT_DTYPE)
    of_carry = (d[:, None] * N + n[None, :])[:, :, None]
    plane = num_features * N
    carry_re, carry_im = load_number(carries_ptr, of_carry, plane, is_feature[:, None, None], COMPLEX)
    sum_re = tl.zeros((BLOCK_D, N, M), tl.float32)
    sum_im = tl.zeros((BLOCK_D, N, M), tl.float32)
    if derivatives_ptr is not None:
        derivatives_re = load_table(derivatives_ptr, d, num_features, 0, N, T, False, False, DOT_DTYPE)
        derivatives_im = derivatives_re
        if COMPLEX:
            derivatives_im = load_table(derivatives_ptr, d, num_features, 1, N, T, False, False, DOT_DTYPE)
        slope_re, slope_im = load_number(carries_ptr + 2 * plane, of_carry, plane, is_feature[:, None, None], COMPLEX)
        derivative_re = tl.zeros((BLOCK_D, N, M), tl.float32)
        derivative_im = tl.zeros((BLOCK_D, N, M), tl.float32)

    for step in range(blocks_per_span):
        valid = step < count
        block = block_at(step, first, count, REVERSE)
        offsets = block_offsets(row, block, length, d, num_features, T, REVERSE)
        x = tl.load(x_ptr + offsets, mask=is_feature[:, None, None] & valid[None, None, :], other=0.0).to(DOT_DTYPE)
        is_read = valid[None, None, :]
        kept_re, kept_im = multiply(carry_re, carry_im, sum_re, sum_im, COMPLEX)
        if derivatives_ptr is not None:
            grown_re, grown_im = multiply(carry_re, carry_im, derivative_re, derivative_im, COMPLEX)
            moved_re, moved_im = multiply(slope_re, slope_im, sum_re, sum_im, COMPLEX)
            grown_re, grown_im = grown_re + moved_re, grown_im + moved_im
        if documents_ptr is not None:
            inside, before, end = load_documents(documents_ptr, row, block, valid, length, T, REVERSE)
            x = tl.where((inside == end[None, :])[None, :, :], x, 0.0)
            unbroken = (before == end)[None, None, :]
            kept_re, kept_im = tl.where(unbroken, kept_re, 0.0), tl.where(unbroken, kept_im, 0.0)
            if derivatives_ptr is not None:
                grown_re, grown_im = tl.where(unbroken, grown_re, 0.0), tl.where(unbroken, grown_im, 0.0)
        added_re, added_im = number_product(powers_re, powers_im, x, PRECISION, COMPLEX)
        sum_re = tl.where(is_read, kept_re + added_re, sum_re)
        sum_im = tl.where(is_read, kept_im + added_im, sum_im)
        if derivatives_ptr is not None:
            added_re, added_im = number_product(derivatives_re, derivatives_im, x, PRECISION, COMPLEX)
            derivative_re = tl.where(is_read, grown_re + added_re, derivative_re)
            derivative_im = tl.where(is_read, grown_im + added_im, derivative_im)

    of_sum = column.to(tl.int64)[None, None, :] * (PLANES * plane) + of_carry
    mask = is_feature[:, None, None] & (column < num_columns)[None, None, :]
    store_number(sums_ptr, of_sum, plane, sum_re, sum_im, mask, COMPLEX)
    if derivatives_ptr is not None:
        store_number(sums_ptr + PARTS * plane, of_sum, plane, derivative_re, derivative_im, mask, COMPLEX)


@triton.jit
def span_states_kernel(
    sums_ptr,  # [B · num_spans, R or 2 R, D, N]
    documents_ptr,  # [B, L + 2] or None
    carries_ptr,
    q_ptr,  # [R, D, num_states] float64
    p_ptr,
    gamma_ptr,
    state_ptr,  # [B, D, num_states, R]: before the first span that is read
    states_ptr,  # [B · num_spans, R, D, N]: before every span
    final_ptr,  # [B, D, num_states, R]: after the last span that is read
    length,
    num_features,
    num_states,
    num_spans,
    span_length,
    last_span_length,
    COMPLEX: tl.constexpr,
    REVERSE: tl.constexpr,
    DERIVATIVES: tl.constexpr,
    N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`state ← q^m state + w · sum` over spans: forwards w = p; backwards w = γ q, and the state is conj(∂loss/∂h)."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    PLANES: tl.constexpr = 2 * PARTS if DERIVATIVES else PARTS
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    row = tl.program_id(1).to(tl.int64)
    is_feature = (d < num_features)[:, None]
    is_state = is_feature & (n < num_states)[None, :]
    of_parameter = d[:, None] * num_states + n[None, :]
    of_carry = d[:, None] * N + n[None, :]
    plane = num_features * N
    if REVERSE:
        q_re, q_im = load_number(q_ptr, of_parameter, num_features * num_states, is_state, COMPLEX)
        gamma_re, gamma_im = load_number(gamma_ptr, of_parameter * PARTS, 1, is_state, COMPLEX)
        weight_re, weight_im = multiply(q_re.to(tl.float32), q_im.to(tl.float32), gamma_re, gamma_im, COMPLEX)
    else:
        weight_re = tl.load(p_ptr + of_parameter, mask=is_state, other=0.0)
        weight_im = tl.zeros_like(weight_re)
    SIGN: tl.constexpr = -1.0 if REVERSE else 1.0
    of_state = (row * num_features * num_states + of_parameter) * PARTS
    state_re, state_im = load_number(state_ptr, of_state, 1, is_state, COMPLEX)
    state_im *= SIGN

    for step in range(num_spans):
        span = num_spans - 1 - step if REVERSE else step
        column = row * num_spans + span
        store_number(states_ptr + column * (PARTS * plane), of_carry, plane, state_re, state_im, is_feature, COMPLEX)
        kind = tl.where(span == num_spans - 1, 2, 1)
        carry_re, carry_im = load_number(carries_ptr + kind * 4 * plane, of_carry, plane, is_feature, COMPLEX)
        sum_re, sum_im = load_number(sums_ptr + column * (PLANES * plane), of_carry, plane, is_feature, COMPLEX)
        state_re, state_im = multiply(carry_re, carry_im, state_re, state_im, COMPLEX)
        if documents_ptr is not None:
            begin = documents_ptr + row * (length + 2) + span * span_length + 1
            size = tl.where(span == num_spans - 1, last_span_length, span_length)
            if REVERSE:
                unbroken = tl.load(begin + size) == tl.load(begin)
            else:
                unbroken = tl.load(begin - 1) == tl.load(begin + size - 1)
            state_re, state_im = tl.where(unbroken, state_re, 0.0), tl.where(unbroken, state_im, 0.0)
        added_re, added_im = multiply(weight_re, weight_im, sum_re, sum_im, COMPLEX)
        state_re, state_im = state_re + added_re, state_im + added_im

    store_number(final_ptr, of_state, 1, state_re, state_im * SIGN, is_state, COMPLEX)
