"""CEMA timestep by timestep: for the few after the last whole block, so that states stay exact at any length."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from gecko_lab.kernels.cema.triton_powers import load_number, multiply, store_number


@triton.jit
def recurrence_kernel(
    x_ptr,  # [B, L, D]
    documents_ptr,  # [B, L + 2] or None
    q_ptr,  # [R, D, num_states] float64
    p_ptr,
    gamma_ptr,
    state_ptr,  # [B, D, num_states, R]: before timestep `begin`
    y_ptr,  # [B, L, D]: written from `begin` on
    final_ptr,  # [B, D, num_states, R]
    begin,
    length,
    num_features,
    num_states,
    COMPLEX: tl.constexpr,
    N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """`h ← q h + p x`, `y = Re Σ γ h` for one row and BLOCK_D channels."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    row = tl.program_id(1).to(tl.int64)
    is_feature = d < num_features
    is_state = is_feature[:, None] & (n < num_states)[None, :]
    of_parameter = d[:, None] * num_states + n[None, :]
    of_state = (row * num_features * num_states + of_parameter) * PARTS
    q_re, q_im = load_number(q_ptr, of_parameter, num_features * num_states, is_state, COMPLEX)
    q_re, q_im = q_re.to(tl.float32), q_im.to(tl.float32)
    p = tl.load(p_ptr + of_parameter, mask=is_state, other=0.0)
    gamma_re, gamma_im = load_number(gamma_ptr, of_parameter * PARTS, 1, is_state, COMPLEX)
    h_re, h_im = load_number(state_ptr, of_state, 1, is_state, COMPLEX)
    for t in range(begin, length):
        offsets = (row * length + t) * num_features + d
        x = tl.load(x_ptr + offsets, mask=is_feature, other=0.0).to(tl.float32)
        h_re, h_im = multiply(q_re, q_im, h_re, h_im, COMPLEX)
        if documents_ptr is not None:
            document = documents_ptr + row * (length + 2) + t
            unbroken = tl.load(document) == tl.load(document + 1)
            h_re, h_im = tl.where(unbroken, h_re, 0.0), tl.where(unbroken, h_im, 0.0)
        h_re += p * x[:, None]
        read_re, _ = multiply(gamma_re, gamma_im, h_re, h_im, COMPLEX)
        tl.store(y_ptr + offsets, tl.sum(read_re, axis=1).to(y_ptr.dtype.element_ty), mask=is_feature)
    store_number(final_ptr, of_state, 1, h_re, h_im, is_state, COMPLEX)


@triton.jit
def recurrence_gradients_kernel(
    x_ptr,  # [B, L, D]
    dy_ptr,  # [B, L, D]
    documents_ptr,  # [B, L + 2] or None
    q_ptr,  # [R, D, num_states] float64
    p_ptr,
    gamma_ptr,
    state_ptr,  # [B, D, num_states, R]: before timestep `begin`
    dfinal_ptr,  # [B, D, num_states, R]
    dx_ptr,  # [B, L, D]: written from `begin` on
    dstate_ptr,  # [B, D, num_states, R]
    dp_ptr,  # [B, D, num_states]
    dq_ptr,  # [B, R, D, num_states]
    dgamma_ptr,  # [B, D, num_states, R]
    begin,
    length,
    num_features,
    num_states,
    COMPLEX: tl.constexpr,
    N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Forwards with the derivatives r = ∂h/∂p and s = ∂h/∂q for the parameters, then backwards for x and the state."""
    PARTS: tl.constexpr = 2 if COMPLEX else 1
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.arange(0, N)
    row = tl.program_id(1).to(tl.int64)
    is_feature = d < num_features
    is_state = is_feature[:, None] & (n < num_states)[None, :]
    of_parameter = d[:, None] * num_states + n[None, :]
    in_row = row * num_features * num_states + of_parameter
    of_state = in_row * PARTS
    q_re, q_im = load_number(q_ptr, of_parameter, num_features * num_states, is_state, COMPLEX)
    q_re, q_im = q_re.to(tl.float32), q_im.to(tl.float32)
    p = tl.load(p_ptr + of_parameter, mask=is_state, other=0.0)
    gamma_re, gamma_im = load_number(gamma_ptr, of_parameter * PARTS, 1, is_state, COMPLEX)
    h_re, h_im = load_number(state_ptr, of_state, 1, is_state, COMPLEX)
    g_re, g_im = load_number(dfinal_ptr, of_state, 1, is_state, COMPLEX)
    g_im = -g_im
    zero = tl.zeros((BLOCK_D, N), tl.float32)
    r_re, r_im, s_re, s_im = zero, zero, zero, zero
    dyr_re, dyr_im, dys_re, dys_im, dyh_re, dyh_im = zero, zero, zero, zero, zero, zero
    for t in range(begin, length):
        offsets = (row * length + t) * num_features + d
        x = tl.load(x_ptr + offsets, mask=is_feature, other=0.0).to(tl.float32)[:, None]
        dy = tl.load(dy_ptr + offsets, mask=is_feature, other=0.0).to(tl.float32)[:, None]
        s_re, s_im = multiply(q_re, q_im, s_re, s_im, COMPLEX)
        s_re, s_im = s_re + h_re, s_im + h_im
        h_re, h_im = multiply(q_re, q_im, h_re, h_im, COMPLEX)
        r_re, r_im = multiply(q_re, q_im, r_re, r_im, COMPLEX)
        if documents_ptr is not None:
            document = documents_ptr + row * (length + 2) + t
            unbroken = tl.load(document) == tl.load(document + 1)
            h_re, h_im = tl.where(unbroken, h_re, 0.0), tl.where(unbroken, h_im, 0.0)
            r_re, r_im = tl.where(unbroken, r_re, 0.0), tl.where(unbroken, r_im, 0.0)
            s_re, s_im = tl.where(unbroken, s_re, 0.0), tl.where(unbroken, s_im, 0.0)
        h_re += p * x
        r_re += x
        dyh_re, dyh_im = dyh_re + dy * h_re, dyh_im + dy * h_im
        dyr_re, dyr_im = dyr_re + dy * r_re, dyr_im + dy * r_im
        dys_re, dys_im = dys_re + dy * s_re, dys_im + dy * s_im
    store_number(dgamma_ptr, of_state, 1, dyh_re, -dyh_im, is_state, COMPLEX)
    re, _ = multiply(gamma_re, gamma_im, dyr_re, dyr_im, COMPLEX)
    end_re, _ = multiply(g_re, g_im, r_re, r_im, COMPLEX)
    tl.store(dp_ptr + in_row, re + end_re, mask=is_state)
    re, im = multiply(gamma_re, gamma_im, dys_re, dys_im, COMPLEX)
    end_re, end_im = multiply(g_re, g_im, s_re, s_im, COMPLEX)
    of_dq = row * PARTS * num_features * num_states + of_parameter
    store_number(dq_ptr, of_dq, num_features * num_states, re + end_re, -(im + end_im), is_state, COMPLEX)

    for step in range(length - begin):
        t = length - 1 - step
        offsets = (row * length + t) * num_features + d
        dy = tl.load(dy_ptr + offsets, mask=is_feature, other=0.0).to(tl.float32)[:, None]
        g_re, g_im = g_re + gamma_re * dy, g_im + gamma_im * dy
        dx = tl.sum(p * g_re, axis=1)
        tl.store(dx_ptr + offsets, dx.to(dx_ptr.dtype.element_ty), mask=is_feature)
        g_re, g_im = multiply(q_re, q_im, g_re, g_im, COMPLEX)
        if documents_ptr is not None:
            document = documents_ptr + row * (length + 2) + t
            unbroken = tl.load(document) == tl.load(document + 1)
            g_re, g_im = tl.where(unbroken, g_re, 0.0), tl.where(unbroken, g_im, 0.0)
    store_number(dstate_ptr, of_state, 1, g_re, -g_im, is_state, COMPLEX)
