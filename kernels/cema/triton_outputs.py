"""Outputs of CEMA from the states at the edges of spans; read backwards, the gradient of x."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from gecko_lab.kernels.cema.triton_blocks import (
    block_at,
    block_offsets,
    load_documents,
    load_table,
    load_toeplitz,
    number_product,
    span_places,
)
from gecko_lab.kernels.cema.triton_powers import load_number, multiply


@triton.jit
def add_product(y, table, state, DOT_DTYPE: tl.constexpr, PRECISION: tl.constexpr):
    """`y + table · state`, the float32 state as a sum of two numbers of the products' type."""
    high = state.to(DOT_DTYPE)
    y = tl.dot(table, high, y, input_precision=PRECISION)
    if tl.float32 != DOT_DTYPE:
        y = tl.dot(table, (state - high.to(tl.float32)).to(DOT_DTYPE), y, input_precision=PRECISION)
    return y


@triton.jit
def outputs_kernel(
    x_ptr,  # [B, L, D]
    documents_ptr,  # [B, L + 2] or None
    num_documents_ptr,  # [1]: the most documents that begin within a block
    powers_ptr,
    outputs_ptr,
    kernel_ptr,
    carries_ptr,
    p_ptr,
    states_ptr,  # [B · num_spans, R, D, N]: before every span
    y_ptr,  # [B, L, D]
    length,
    num_features,
    num_states,
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
    """`y = K x + Re(O h)`, `h ← q^T h + p P x`, block by block, M spans at once.

    Backwards x is dy, y is dx, h is conj(∂loss/∂h), and `y = K x + Re(P p h)`, `h ← q^T h + O x`.
    """
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    is_feature = d < num_features
    column = tl.program_id(1) * M + tl.arange(0, M)
    row, first, count = span_places(column, num_columns, num_spans, blocks_per_span, num_blocks)
    in_ptr = outputs_ptr if REVERSE else powers_ptr
    out_ptr = powers_ptr if REVERSE else outputs_ptr
    toeplitz = load_toeplitz(kernel_ptr, d, num_features, T, DOT_DTYPE)
    in_re = load_table(in_ptr, d, num_features, 0, N, T, REVERSE, False, DOT_DTYPE)
    out_re = load_table(out_ptr, d, num_features, 0, N, T, REVERSE, True, DOT_DTYPE)
    in_im = in_re
    if COMPLEX:
        in_im = load_table(in_ptr, d, num_features, 1, N, T, REVERSE, False, DOT_DTYPE)
        out_im = load_table(out_ptr, d, num_features, 1, N, T, REVERSE, True, DOT_DTYPE)
    is_state = (is_feature[:, None] & (n < num_states)[None, :])[:, :, None]
    p = tl.load(p_ptr + (d[:, None] * num_states + n[None, :])[:, :, None], mask=is_state, other=0.0)
    of_carry = (d[:, None] * N + n[None, :])[:, :, None]
    plane = num_features * N
    carry_re, carry_im = load_number(carries_ptr, of_carry, plane, is_feature[:, None, None], COMPLEX)
    of_state = column.to(tl.int64)[None, None, :] * (PARTS * plane) + of_carry
    mask = is_feature[:, None, None] & (column < num_columns)[None, None, :]
    state_re, state_im = load_number(states_ptr, of_state, plane, mask, COMPLEX)

    for step in range(blocks_per_span):
        valid = step < count
        block = block_at(step, first, count, REVERSE)
        offsets = block_offsets(row, block, length, d, num_features, T, REVERSE)
        in_block = is_feature[:, None, None] & valid[None, None, :]
        x = tl.load(x_ptr + offsets, mask=in_block, other=0.0).to(DOT_DTYPE)
        x_first = x
        x_last = x
        if documents_ptr is not None:
            inside, before, end = load_documents(documents_ptr, row, block, valid, length, T, REVERSE)
            continues = (inside == before[None, :])[None, :, :]
            in_block &= continues
            x_first = tl.where(continues, x, 0.0)
            x_last = tl.where((inside == end[None, :])[None, :, :], x, 0.0)
        y = tl.dot(toeplitz, x_first, input_precision=PRECISION)
        scaled_re, scaled_im = state_re, state_im
        if REVERSE:
            scaled_re, scaled_im = p * state_re, p * state_im
        y = add_product(y, out_re, scaled_re, DOT_DTYPE, PRECISION)
        if COMPLEX:
            y = add_product(y, out_im, -scaled_im, DOT_DTYPE, PRECISION)
        tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=in_block)

        added_re, added_im = number_product(in_re, in_im, x_last, PRECISION, COMPLEX)
        if not REVERSE:
            added_re, added_im = p * added_re, p * added_im
        kept_re, kept_im = multiply(carry_re, carry_im, state_re, state_im, COMPLEX)
        if documents_ptr is not None:
            unbroken = (before == end)[None, None, :]
            kept_re, kept_im = tl.where(unbroken, kept_re, 0.0), tl.where(unbroken, kept_im, 0.0)
        state_re, state_im = kept_re + added_re, kept_im + added_im

    if documents_ptr is not None:
        # The first, second, … document that begins within a block.
        for index in range(1, tl.load(num_documents_ptr) + 1):
            for step in range(blocks_per_span):
                valid = step < count
                block = block_at(step, first, count, REVERSE)
                inside, before, end = load_documents(documents_ptr, row, block, valid, length, T, REVERSE)
                begins = valid & (tl.abs(end - before) >= index)
                document = tl.where(begins, before - index if REVERSE else before + index, -1)
                if tl.max(document, axis=0) >= 0:
                    here = (inside == document[None, :])[None, :, :] & is_feature[:, None, None]
                    offsets = block_offsets(row, block, length, d, num_features, T, REVERSE)
                    x = tl.load(x_ptr + offsets, mask=here, other=0.0).to(DOT_DTYPE)
                    y = tl.dot(toeplitz, x, input_precision=PRECISION)
                    tl.store(y_ptr + offsets, y.to(y_ptr.dtype.element_ty), mask=here)
