"""Complex numbers in Triton, and the tables of powers of q that the products need.

A number is a pair (re, im). Without a phase numbers are real, COMPLEX is false, and every im is zero and unused.

Tables of a channel, N states, T timesteps of a block (`[R, D, N, T]`, R parts of a number):

    powers       P[t] = q^{T-1-t}                what timestep t adds to the state at the block's end, before p
    derivatives  V[t] = (T-1-t) q^{T-2-t}        ∂P/∂q
    outputs      O[t] = γ q^{t+1}                the share of the state before the block in y_t
    kernel       k[t] = Re Σ_n γ p q^t           [D, T]
    carries      q^m, m q^{m-1}                  [3, 4, D, N]: m the timesteps of a block, of a span, of the last span
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def multiply(a_re, a_im, b_re, b_im, COMPLEX: tl.constexpr):
    """`a b`; `a` broadcasts to `b`."""
    if COMPLEX:
        return a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re
    else:
        return a_re * b_re, b_im


@triton.jit
def load_number(pointer, offsets, stride, mask, COMPLEX: tl.constexpr):
    """The two parts, `stride` apart."""
    re = tl.load(pointer + offsets, mask=mask, other=0.0)
    im = tl.zeros_like(re)
    if COMPLEX:
        im = tl.load(pointer + offsets + stride, mask=mask, other=0.0)
    return re, im


@triton.jit
def store_number(pointer, offsets, stride, re, im, mask, COMPLEX: tl.constexpr):
    """The inverse of `load_number`."""
    tl.store(pointer + offsets, re.to(tl.float32).to(pointer.dtype.element_ty), mask=mask)
    if COMPLEX:
        tl.store(pointer + offsets + stride, im.to(tl.float32).to(pointer.dtype.element_ty), mask=mask)


@triton.jit
def power(q_re, q_im, exponent, NUM_BITS: tl.constexpr, COMPLEX: tl.constexpr):
    """`q^exponent` by squaring, in q's precision; `0^0 = 1`. The exponent has q's shape or broadcasts to it."""
    zero = tl.zeros_like(q_re) + (exponent * 0).to(q_re.dtype)
    re, im = zero + 1.0, zero
    square_re, square_im = zero + q_re, zero + q_im
    for bit in tl.static_range(NUM_BITS):
        # Products are written out: the interpreter takes milliseconds for every call of a function.
        taken = ((exponent >> bit) & 1) == 1
        if COMPLEX:
            product_re, product_im = square_re * re - square_im * im, square_re * im + square_im * re
            re, im = tl.where(taken, product_re, re), tl.where(taken, product_im, im)
            square_re, square_im = square_re * square_re - square_im * square_im, 2.0 * square_re * square_im
        else:
            re = tl.where(taken, square_re * re, re)
            square_re *= square_re
    return re, im


@triton.jit
def tables_kernel(
    q_ptr,  # [R, D, num_states] float64: float32 would lose digits with every squaring
    p_ptr,  # [D, num_states]
    gamma_ptr,  # [D, num_states, R]
    powers_ptr,
    derivatives_ptr,
    outputs_ptr,
    kernel_ptr,
    carries_ptr,
    num_features,
    num_states,
    span_length,
    last_span_length,
    COMPLEX: tl.constexpr,
    N: tl.constexpr,
    T: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """All tables of BLOCK_D channels. States beyond `num_states` are zero in every table."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    t = tl.arange(0, T)
    of_state = d[:, None] * num_states + n[None, :]
    is_state = (d < num_features)[:, None] & (n < num_states)[None, :]
    q_re, q_im = load_number(q_ptr, of_state, num_features * num_states, is_state, COMPLEX)
    gamma_re, gamma_im = load_number(gamma_ptr, of_state * PARTS, 1, is_state, COMPLEX)
    p = tl.load(p_ptr + of_state, mask=is_state, other=0.0)

    exponent = (T - 1 - t)[None, None, :]
    re, im = power(q_re[:, :, None], q_im[:, :, None], exponent, 6, COMPLEX)
    re, im = tl.where(is_state[:, :, None], re, 0.0), tl.where(is_state[:, :, None], im, 0.0)
    of_table = (d[:, None, None] * N + n[None, :, None]) * T + t[None, None, :]
    stride = num_features * N * T
    in_table = (d < num_features)[:, None, None] & (n < N)[None, :, None] & (t < T)[None, None, :]
    store_number(powers_ptr, of_table, stride, re, im, in_table, COMPLEX)

    # With its time reversed the table holds q^t: γ q^{t+1} and k[t] are written to their places from the end.
    back = T - 1 - t
    response_re, response_im = multiply(
        gamma_re.to(re.dtype)[:, :, None], gamma_im.to(re.dtype)[:, :, None], re, im, COMPLEX
    )
    kernel = tl.sum(response_re * p.to(re.dtype)[:, :, None], axis=1)
    tl.store(
        kernel_ptr + d[:, None] * T + back[None, :],
        kernel.to(tl.float32).to(kernel_ptr.dtype.element_ty),
        mask=(d < num_features)[:, None],
    )
    output_re, output_im = multiply(q_re[:, :, None], q_im[:, :, None], response_re, response_im, COMPLEX)
    of_output = (d[:, None, None] * N + n[None, :, None]) * T + back[None, None, :]
    store_number(outputs_ptr, of_output, stride, output_re, output_im, in_table, COMPLEX)

    if derivatives_ptr is not None:
        before = tl.maximum(exponent - 1, 0)
        re, im = power(q_re[:, :, None], q_im[:, :, None], before, 6, COMPLEX)
        store_number(derivatives_ptr, of_table, stride, re * exponent, im * exponent, in_table, COMPLEX)

    of_carry = d[:, None] * N + n[None, :]
    in_carry = (d < num_features)[:, None] & (n < N)[None, :]
    stride = num_features * N
    for kind in tl.static_range(3):
        exponent = tl.zeros_like(of_carry) + (T if kind == 0 else (span_length if kind == 1 else last_span_length))
        re, im = power(q_re, q_im, tl.maximum(exponent - 1, 0), 31, COMPLEX)
        store_number(
            carries_ptr + (4 * kind + 2) * stride, of_carry, stride, re * exponent, im * exponent, in_carry, True
        )
        re, im = multiply(q_re, q_im, re, im, COMPLEX)
        store_number(carries_ptr + 4 * kind * stride, of_carry, stride, re, im, in_carry, True)
