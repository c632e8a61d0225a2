"""Backward kernels: sums over each timestep and chunk, the scan over chunks, that over timesteps, the input's gradient.

Legend as in `triton_forward.py`. `p` and `q` are what a timestep's own output adds to the gradients of all the means
and variances before it; the README derives them.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from gecko_lab.kernels.timestep_norm.triton_recurrences import chunk_forget, scan_affine
from gecko_lab.kernels.timestep_norm.triton_tiles import (
    feature_offsets,
    load_features,
    locate_chunk,
    locate_span,
    store_features,
)


@triton.jit
def gradient_sums_kernel(
    dy,
    x,
    scale,
    document_starts,
    weights,
    corrected_means,
    rstds,
    p,
    q,
    chunk_counts,
    chunk_p,
    chunk_q,
    partial_dscale,
    partial_dbias,
    num_timesteps,
    length,
    log_beta1,
    log_beta2,
    NUM_GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    CUMULATIVE: tl.constexpr,
):
    """Each timestep's own `p` and `q`, what a chunk of them adds to those before it, and sums for scale and bias.

    `p`, `q` float32 `[B, L, G]`; `chunk_p`, `chunk_q` float32 `[B, C, G]`; `chunk_counts` int32 `[B, C]`, negative
    where a document begins in the chunk; `partial_dscale`, `partial_dbias` float32 `[B, C, D]`.
    """
    chunk, first_row, num_rows, o_g = locate_chunk(length, NUM_GROUPS, CHUNK, GROUPS)
    o_f, m_f = feature_offsets(o_g, NUM_GROUPS, GROUP_SIZE, PADDED)
    m_g = o_g < NUM_GROUPS
    # From here on pointers are to the chunk, and offsets fit 32 bits.
    dy, x = dy + first_row * (NUM_GROUPS * GROUP_SIZE), x + first_row * (NUM_GROUPS * GROUP_SIZE)
    weights1, weights2 = weights + first_row, weights + num_timesteps + first_row
    corrected_means, rstds = corrected_means + first_row * NUM_GROUPS, rstds + first_row * NUM_GROUPS
    p, q = p + first_row * NUM_GROUPS, q + first_row * NUM_GROUPS
    earliest_start = num_rows
    if document_starts is not None:
        o_c = tl.arange(0, CHUNK)
        b_start = tl.load(document_starts + first_row + o_c, mask=o_c < num_rows, other=0)
        earliest_start = tl.min(tl.where(b_start != 0, o_c, num_rows), axis=0)
    b_scale = tl.load(scale + o_f, mask=m_f, other=0.0)
    # Every row of the tiles adds up its own timesteps; the rows come together once, at the end.
    b_dscale = tl.zeros([ROWS, GROUPS, PADDED], tl.float32)
    b_dbias = tl.zeros([ROWS, GROUPS, PADDED], tl.float32)
    b_ps = tl.zeros([ROWS, GROUPS], tl.float32)
    b_qs = tl.zeros([ROWS, GROUPS], tl.float32)
    o_t = tl.arange(0, ROWS)
    b_next_x = load_features(x, o_t, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
    b_next_dy = load_features(dy, o_t, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
    for start in range(0, num_rows, ROWS):
        o_r = start + o_t
        b_x, b_dy = b_next_x.to(tl.float32), b_next_dy.to(tl.float32)
        # The next tile is under way while this one is worked on.
        b_next_x = load_features(x, o_r + ROWS, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
        b_next_dy = load_features(dy, o_r + ROWS, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
        m_r = o_r < num_rows
        o_s = o_r[:, None] * NUM_GROUPS + o_g[None, :]
        m_s = m_r[:, None] & m_g[None, :]
        b_mean = tl.load(corrected_means + o_s, mask=m_s, other=0.0)
        b_rstd = tl.load(rstds + o_s, mask=m_s, other=0.0)
        b_weight1 = tl.load(weights1 + o_r, mask=m_r, other=0.0).to(tl.float32)
        b_weight2 = tl.load(weights2 + o_r, mask=m_r, other=0.0).to(tl.float32)
        b_product = b_dy * ((b_x - b_mean[:, :, None]) * b_rstd[:, :, None])
        b_dscale += b_product
        b_dbias += b_dy
        b_p = -b_weight1[:, None] * b_rstd * tl.sum(b_dy * b_scale, axis=2)
        b_q = -0.5 * b_weight2[:, None] * b_rstd * b_rstd * tl.sum(b_product * b_scale, axis=2)
        if CUMULATIVE:
            b_p -= 2.0 * b_mean * b_q
        tl.store(p + o_s, b_p, mask=m_s)
        tl.store(q + o_s, b_q, mask=m_s)
        m_s &= (o_r < earliest_start)[:, None]
        if not CUMULATIVE:
            b_distance = (o_r + 1).to(tl.float32)
            b_p *= tl.exp(b_distance * log_beta1)[:, None]
            b_q *= tl.exp(b_distance * log_beta2)[:, None]
        b_ps += tl.where(m_s, b_p, 0.0)
        b_qs += tl.where(m_s, b_q, 0.0)
    tl.store(chunk_p + chunk * NUM_GROUPS + o_g, tl.sum(b_ps, axis=0), mask=m_g)
    tl.store(chunk_q + chunk * NUM_GROUPS + o_g, tl.sum(b_qs, axis=0), mask=m_g)
    count = tl.where(earliest_start == num_rows, num_rows, -num_rows)
    tl.store(chunk_counts + chunk, count, mask=tl.min(o_g, axis=0) == 0)
    o_partial = chunk * (NUM_GROUPS * GROUP_SIZE) + o_f
    tl.store(partial_dscale + o_partial, tl.sum(b_dscale, axis=0, keep_dims=True), mask=m_f)
    tl.store(partial_dbias + o_partial, tl.sum(b_dbias, axis=0, keep_dims=True), mask=m_f)


@triton.jit
def carry_gradients_kernel(
    dfinal_mean,
    dfinal_variance,
    count,
    mean,
    weights,
    corrected_means,
    chunk_counts,
    chunk_p,
    chunk_q,
    carried_p,
    carried_q,
    dmean,
    dvariance,
    length,
    num_chunks,
    log_beta1,
    log_beta2,
    NUM_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CUMULATIVE: tl.constexpr,
):
    """What all after each chunk adds to its gradients, float32 `[B, C, G]`, and the incoming state's gradient."""
    group_blocks: tl.constexpr = (NUM_GROUPS + GROUPS - 1) // GROUPS
    i_b, i_g = (tl.program_id(0) // group_blocks).to(tl.int64), tl.program_id(0) % group_blocks
    o_g = i_g * GROUPS + tl.arange(0, GROUPS)
    m_g = o_g < NUM_GROUPS
    o_state = i_b * NUM_GROUPS + o_g
    b_carried_p = tl.load(dfinal_mean + o_state, mask=m_g, other=0.0).to(tl.float64)
    b_carried_q = tl.load(dfinal_variance + o_state, mask=m_g, other=0.0).to(tl.float64)
    if CUMULATIVE:
        last = i_b * length + length - 1
        weight = tl.load(weights + last)
        b_final_mean = tl.load(corrected_means + last * NUM_GROUPS + o_g, mask=m_g, other=0.0).to(tl.float64)
        b_carried_q *= weight
        b_carried_p = b_carried_p * weight - 2 * b_final_mean * b_carried_q
    o_s = tl.arange(0, CHUNKS)
    for step in range(tl.cdiv(num_chunks, CHUNKS)):
        # Blocks of chunks end where the last chunk does: the first block, taken last, may begin before the first chunk.
        o_c = num_chunks - (step + 1) * CHUNKS + o_s
        m_c = o_c >= 0
        m_cg = m_c[:, None] & m_g[None, :]
        o_cg = (i_b * num_chunks + o_c)[:, None] * NUM_GROUPS + o_g[None, :]
        b_size = tl.load(chunk_counts + i_b * num_chunks + o_c, mask=m_c, other=0)
        b_p = tl.load(chunk_p + o_cg, mask=m_cg, other=0.0).to(tl.float64)
        b_q = tl.load(chunk_q + o_cg, mask=m_cg, other=0.0).to(tl.float64)
        # What comes from after the last chunk of the block is kept before the scan moves on.
        m_last = (o_s == CHUNKS - 1)[:, None] & m_g[None, :]
        b_zeros = tl.zeros_like(b_p)
        tl.store(carried_p + o_cg, (b_carried_p[None, :] + b_zeros).to(tl.float32), mask=m_last)
        tl.store(carried_q + o_cg, (b_carried_q[None, :] + b_zeros).to(tl.float32), mask=m_last)
        b_forget1 = chunk_forget(b_size, log_beta1)[:, None] + b_zeros
        b_forget2 = chunk_forget(b_size, log_beta2)[:, None] + b_zeros
        b_p, b_carried_p = scan_affine(b_forget1, b_p, b_carried_p, True)
        b_q, b_carried_q = scan_affine(b_forget2, b_q, b_carried_q, True)
        # What a chunk hands on belongs to the chunk before it.
        m_before = (m_c & (o_c > 0) & (o_s > 0))[:, None] & m_g[None, :]
        tl.store(carried_p + o_cg - NUM_GROUPS, b_p.to(tl.float32), mask=m_before)
        tl.store(carried_q + o_cg - NUM_GROUPS, b_q.to(tl.float32), mask=m_before)
    if CUMULATIVE:
        initial_count = tl.load(count + i_b).to(tl.float64)
        b_mean = tl.load(mean + o_state, mask=m_g, other=0.0).to(tl.float64)
        b_carried_p = initial_count * (b_carried_p + 2 * b_mean * b_carried_q)
        b_carried_q = initial_count * b_carried_q
    tl.store(dmean + o_state, b_carried_p.to(tl.float32), mask=m_g)
    tl.store(dvariance + o_state, b_carried_q.to(tl.float32), mask=m_g)


@triton.jit
def statistics_gradients_kernel(
    p,
    q,
    timestep_means,
    document_starts,
    carried_p,
    carried_q,
    offsets,
    slopes,
    length,
    forget1,
    forget2,
    NUM_GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    CHUNK: tl.constexpr,
    CUMULATIVE: tl.constexpr,
):
    """What the gradients of a timestep's moments add to that of `x`: `offset + slope (x - mean)`; one chunk a program.

    `offsets`, `slopes` float32 `[B, L, G]`.
    """
    chunk, first_row, num_rows, o_g = locate_chunk(length, NUM_GROUPS, CHUNK, GROUPS)
    o_r = tl.arange(0, CHUNK)
    m_r, m_g = o_r < num_rows, o_g < NUM_GROUPS
    o_s = (first_row + o_r)[:, None] * NUM_GROUPS + o_g[None, :]
    m_s = m_r[:, None] & m_g[None, :]
    b_p = tl.load(p + o_s, mask=m_s, other=0.0)
    b_q = tl.load(q + o_s, mask=m_s, other=0.0)
    b_after_p = tl.load(carried_p + chunk * NUM_GROUPS + o_g, mask=m_g, other=0.0)
    b_after_q = tl.load(carried_q + chunk * NUM_GROUPS + o_g, mask=m_g, other=0.0)
    # From timestep t + 1 to t; what comes from after the chunk has been through that already.
    m_within = o_r + 1 < num_rows
    b_forget1 = tl.where(m_within, forget1, 0.0)
    b_forget2 = tl.where(m_within, forget2, 0.0)
    if document_starts is not None:
        b_ends = tl.load(document_starts + first_row + o_r + 1, mask=m_within, other=0) != 0
        b_forget1, b_forget2 = tl.where(b_ends, 1.0, b_forget1), tl.where(b_ends, 1.0, b_forget2)
    b_zeros = tl.zeros_like(b_p)
    b_p, _ = scan_affine(b_forget1[:, None] + b_zeros, b_p, b_after_p, True)
    b_q, _ = scan_affine(b_forget2[:, None] + b_zeros, b_q, b_after_q, True)
    if CUMULATIVE:
        b_mean = tl.load(timestep_means + o_s, mask=m_s, other=0.0)
        b_offset, b_slope = b_p + 2.0 * b_mean * b_q, 2.0 * b_q
    else:
        b_offset, b_slope = forget1 * b_p, 2.0 * forget2 * b_q
    tl.store(offsets + o_s, b_offset / GROUP_SIZE, mask=m_s)
    tl.store(slopes + o_s, b_slope / GROUP_SIZE, mask=m_s)


@triton.jit
def input_gradient_kernel(
    dy,
    x,
    scale,
    timestep_means,
    rstds,
    offsets,
    slopes,
    dx,
    num_timesteps,
    NUM_GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
):
    """`dx` `[B, L, D]`: each program SPAN of the timesteps of all batch rows, in tiles."""
    first_row, num_rows, o_g = locate_span(num_timesteps, NUM_GROUPS, SPAN, GROUPS)
    o_f, m_f = feature_offsets(o_g, NUM_GROUPS, GROUP_SIZE, PADDED)
    first = first_row * (NUM_GROUPS * GROUP_SIZE)
    dy, x, dx = dy + first, x + first, dx + first
    first = first_row * NUM_GROUPS
    timestep_means, rstds, offsets, slopes = timestep_means + first, rstds + first, offsets + first, slopes + first
    b_scale = tl.load(scale + o_f, mask=m_f, other=0.0)
    o_t = tl.arange(0, ROWS)
    b_next_x = load_features(x, o_t, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
    b_next_dy = load_features(dy, o_t, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
    for start in range(0, num_rows, ROWS):
        o_r = start + o_t
        b_x, b_dy = b_next_x.to(tl.float32), b_next_dy.to(tl.float32)
        # The next tile is under way while this one is worked on.
        b_next_x = load_features(x, o_r + ROWS, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
        b_next_dy = load_features(dy, o_r + ROWS, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
        o_s = o_r[:, None] * NUM_GROUPS + o_g[None, :]
        m_s = (o_r < num_rows)[:, None] & (o_g < NUM_GROUPS)[None, :]
        b_mean = tl.load(timestep_means + o_s, mask=m_s, other=0.0)
        b_rstd = tl.load(rstds + o_s, mask=m_s, other=0.0)
        b_offset = tl.load(offsets + o_s, mask=m_s, other=0.0)
        b_slope = tl.load(slopes + o_s, mask=m_s, other=0.0)
        b_dx = (b_x - b_mean[:, :, None]) * b_slope[:, :, None] + b_offset[:, :, None]
        b_dx += b_dy * b_scale * b_rstd[:, :, None]
        store_features(dx, b_dx, o_r, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
