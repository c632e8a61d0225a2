"""Forward kernels: moments of each timestep and chunk, the scan over chunks, that over timesteps, the normalisation.

Legend: B, L, D, G, K = D / G as in `torch.py`; C chunks of CHUNK timesteps; a tile is ROWS timesteps of GROUPS groups,
each padded to PADDED features. i_ index of a program, o_ offsets, m_ masks, b_ values in registers.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl

from gecko_lab.kernels.timestep_norm.triton_recurrences import (
    chunk_forget,
    later_count,
    one_minus_exp,
    pooled,
    row,
    scan_affine,
)
from gecko_lab.kernels.timestep_norm.triton_tiles import (
    feature_offsets,
    load_features,
    locate_chunk,
    locate_span,
    store_features,
)


@triton.jit
def moments_kernel(
    x,
    document_starts,
    timestep_means,
    timestep_variances,
    chunk_counts,
    chunk_means,
    chunk_variances,
    length,
    log_beta1,
    log_beta2,
    forget1,
    forget2,
    NUM_GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    CUMULATIVE: tl.constexpr,
):
    """Moments of every timestep, and the statistics after each chunk, had it begun with none.

    `x` `[B, L, D]`; `document_starts` uint8 `[B, L]` or None; `timestep_means`, `timestep_variances` float32
    `[B, L, G]`; `chunk_means`, `chunk_variances` float32 `[B, C, G]`; `chunk_counts` int32 `[B, C]`, negative where a
    document begins in the chunk.
    """
    chunk, first_row, num_rows, o_g = locate_chunk(length, NUM_GROUPS, CHUNK, GROUPS)
    o_f, m_f = feature_offsets(o_g, NUM_GROUPS, GROUP_SIZE, PADDED)
    m_g = o_g < NUM_GROUPS
    # From here on pointers are to the chunk, and offsets fit 32 bits.
    x += first_row * (NUM_GROUPS * GROUP_SIZE)
    timestep_means += first_row * NUM_GROUPS
    timestep_variances += first_row * NUM_GROUPS
    latest_start = -1
    if document_starts is not None:
        o_c = tl.arange(0, CHUNK)
        b_start = tl.load(document_starts + first_row + o_c, mask=o_c < num_rows, other=0)
        latest_start = tl.max(tl.where(b_start != 0, o_c, -1), axis=0)
    # Every row of the tiles gathers its own timesteps; the rows come together once, at the end.
    b_count = tl.zeros([ROWS], tl.float32)
    b_means = tl.zeros([ROWS, GROUPS], tl.float32)
    b_variances = tl.zeros([ROWS, GROUPS], tl.float32)
    o_t = tl.arange(0, ROWS)
    b_next = load_features(x, o_t, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
    for start in range(0, num_rows, ROWS):
        o_r = start + o_t
        b_x = b_next.to(tl.float32)
        # The next tile is under way while this one is worked on.
        b_next = load_features(x, o_r + ROWS, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
        b_mean = tl.sum(b_x, axis=2) / GROUP_SIZE
        b_centred = tl.where(m_f, b_x - b_mean[:, :, None], 0.0)
        b_variance = tl.sum(b_centred * b_centred, axis=2) / GROUP_SIZE
        m_r = o_r < num_rows
        o_s = o_r[:, None] * NUM_GROUPS + o_g[None, :]
        tl.store(timestep_means + o_s, b_mean, mask=m_r[:, None] & m_g[None, :])
        tl.store(timestep_variances + o_s, b_variance, mask=m_r[:, None] & m_g[None, :])
        m_r &= o_r >= latest_start
        if CUMULATIVE:
            b_count += m_r.to(tl.float32)
            b_weight = (1.0 / tl.maximum(b_count, 1.0))[:, None]
            b_delta = b_mean - b_means
            b_spread = b_variance - b_variances + (1.0 - b_weight) * b_delta * b_delta
            b_means = tl.where(m_r[:, None], b_means + b_weight * b_delta, b_means)
            b_variances = tl.where(m_r[:, None], b_variances + b_weight * b_spread, b_variances)
        else:
            b_age = (num_rows - 1 - o_r).to(tl.float32)
            b_weight1 = forget1 * tl.exp(b_age * log_beta1)
            b_weight2 = forget2 * tl.exp(b_age * log_beta2)
            b_means += tl.where(m_r[:, None], b_weight1[:, None] * b_mean, 0.0)
            b_variances += tl.where(m_r[:, None], b_weight2[:, None] * b_variance, 0.0)
    if CUMULATIVE:
        b_share = (b_count / tl.sum(b_count, axis=0))[:, None]
        b_mean = tl.sum(b_share * b_means, axis=0)
        b_delta = b_means - b_mean[None, :]
        b_variance = tl.sum(b_share * (b_variances + b_delta * b_delta), axis=0)
    else:
        b_mean = tl.sum(b_means, axis=0)
        b_variance = tl.sum(b_variances, axis=0)
    tl.store(chunk_means + chunk * NUM_GROUPS + o_g, b_mean, mask=m_g)
    tl.store(chunk_variances + chunk * NUM_GROUPS + o_g, b_variance, mask=m_g)
    count = tl.where(latest_start < 0, num_rows, latest_start - num_rows)
    tl.store(chunk_counts + chunk, count, mask=tl.min(o_g, axis=0) == 0)


@triton.jit
def carry_statistics_kernel(
    chunk_counts,
    chunk_means,
    chunk_variances,
    count,
    mean,
    variance,
    carried_counts,
    carried_means,
    carried_variances,
    final_count,
    final_mean,
    final_variance,
    num_chunks,
    log_beta1,
    log_beta2,
    NUM_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CUMULATIVE: tl.constexpr,
):
    """The statistics before each chunk, `[B, C]` and `[B, C, G]`, and after the last, `[B]` and `[B, G]`.

    In float64: there is little of it, and what a chunk changes may be as small beside the state as its rounding.
    """
    group_blocks: tl.constexpr = (NUM_GROUPS + GROUPS - 1) // GROUPS
    i_b, i_g = (tl.program_id(0) // group_blocks).to(tl.int64), tl.program_id(0) % group_blocks
    o_g = i_g * GROUPS + tl.arange(0, GROUPS)
    m_g = o_g < NUM_GROUPS
    carried_count = tl.load(count + i_b)
    b_carried_mean = tl.load(mean + i_b * NUM_GROUPS + o_g, mask=m_g, other=0.0).to(tl.float64)
    b_carried_variance = tl.load(variance + i_b * NUM_GROUPS + o_g, mask=m_g, other=0.0).to(tl.float64)
    o_s = tl.arange(0, CHUNKS)
    tl.store(carried_counts + i_b * num_chunks, carried_count, mask=i_g == 0)
    o_first = i_b * num_chunks * NUM_GROUPS + o_g
    tl.store(carried_means + o_first, b_carried_mean.to(tl.float32), mask=m_g)
    tl.store(carried_variances + o_first, b_carried_variance.to(tl.float32), mask=m_g)
    for start in range(0, num_chunks, CHUNKS):
        o_c = start + o_s
        m_c = o_c < num_chunks
        m_cg = m_c[:, None] & m_g[None, :]
        o_cg = (i_b * num_chunks + o_c)[:, None] * NUM_GROUPS + o_g[None, :]
        b_size = tl.load(chunk_counts + i_b * num_chunks + o_c, mask=m_c, other=0)
        b_mean = tl.load(chunk_means + o_cg, mask=m_cg, other=0.0).to(tl.float64)
        b_variance = tl.load(chunk_variances + o_cg, mask=m_cg, other=0.0).to(tl.float64)
        b_zeros = tl.zeros_like(b_mean)
        if CUMULATIVE:
            b_sizes = b_size.to(tl.float64)[:, None] + b_zeros
            b_sizes, b_mean, b_variance = tl.associative_scan((b_sizes, b_mean, b_variance), 0, pooled)
            _, b_mean, b_variance = pooled(
                carried_count.to(tl.float64) + b_zeros, b_carried_mean[None, :], b_carried_variance[None, :],
                b_sizes, b_mean, b_variance,
            )  # fmt: skip
            b_carried_mean, b_carried_variance = row(b_mean, CHUNKS - 1), row(b_variance, CHUNKS - 1)
        else:
            b_forget1 = chunk_forget(b_size, log_beta1)[:, None] + b_zeros
            b_forget2 = chunk_forget(b_size, log_beta2)[:, None] + b_zeros
            b_mean, b_carried_mean = scan_affine(b_forget1, b_mean, b_carried_mean, False)
            b_variance, b_carried_variance = scan_affine(b_forget2, b_variance, b_carried_variance, False)
        b_count = later_count(carried_count, tl.associative_scan(b_size.to(tl.int64), 0, later_count))
        b_count = tl.abs(b_count)
        carried_count = tl.sum(tl.where(o_s == CHUNKS - 1, b_count, 0), axis=0)
        # The state after a chunk is the one before the next.
        m_c = o_c + 1 < num_chunks
        tl.store(carried_counts + i_b * num_chunks + o_c + 1, b_count, mask=m_c & (i_g == 0))
        tl.store(carried_means + o_cg + NUM_GROUPS, b_mean.to(tl.float32), mask=m_c[:, None] & m_g[None, :])
        tl.store(carried_variances + o_cg + NUM_GROUPS, b_variance.to(tl.float32), mask=m_c[:, None] & m_g[None, :])
    tl.store(final_count + i_b, carried_count, mask=i_g == 0)
    tl.store(final_mean + i_b * NUM_GROUPS + o_g, b_carried_mean.to(tl.float32), mask=m_g)
    tl.store(final_variance + i_b * NUM_GROUPS + o_g, b_carried_variance.to(tl.float32), mask=m_g)


@triton.jit
def running_statistics_kernel(
    timestep_means,
    timestep_variances,
    document_starts,
    carried_counts,
    carried_means,
    carried_variances,
    weights,
    corrected_means,
    rstds,
    num_timesteps,
    length,
    log_beta1,
    log_beta2,
    forget1,
    forget2,
    eps,
    NUM_GROUPS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHUNK: tl.constexpr,
    CUMULATIVE: tl.constexpr,
):
    """Corrected running means and `1 / sqrt(variance + eps)`, float32 `[B, L, G]`; a program takes one chunk.

    `weights` float64 `[2, B, L]`: the corrections `1 / (1 - beta^n)`, or `1 / n` twice.
    """
    chunk, first_row, num_rows, o_g = locate_chunk(length, NUM_GROUPS, CHUNK, GROUPS)
    o_r = tl.arange(0, CHUNK)
    m_r, m_g = o_r < num_rows, o_g < NUM_GROUPS
    o_s = (first_row + o_r)[:, None] * NUM_GROUPS + o_g[None, :]
    m_s = m_r[:, None] & m_g[None, :]
    b_means = tl.load(timestep_means + o_s, mask=m_s, other=0.0)
    b_variances = tl.load(timestep_variances + o_s, mask=m_s, other=0.0)
    count = tl.load(carried_counts + chunk)
    b_mean = tl.load(carried_means + chunk * NUM_GROUPS + o_g, mask=m_g, other=0.0)
    b_variance = tl.load(carried_variances + chunk * NUM_GROUPS + o_g, mask=m_g, other=0.0)
    b_step = m_r.to(tl.int32)
    if document_starts is not None:
        b_start = tl.load(document_starts + first_row + o_r, mask=m_r, other=0)
        b_step = tl.where(b_start != 0, -b_step, b_step)
    b_n = tl.abs(later_count(count, tl.associative_scan(b_step, 0, later_count).to(tl.int64))).to(tl.float32)
    b_zeros = tl.zeros_like(b_means)
    if CUMULATIVE:
        b_steps = b_step.to(tl.float32)[:, None] + b_zeros
        b_steps, b_means, b_variances = tl.associative_scan((b_steps, b_means, b_variances), 0, pooled)
        b_counts = count.to(tl.float32) + b_zeros
        _, b_means, b_variances = pooled(b_counts, b_mean[None, :], b_variance[None, :], b_steps, b_means, b_variances)
        b_weight1 = 1.0 / b_n
        b_weight2 = b_weight1
    else:
        b_forget1 = tl.where(b_step < 0, 1.0, forget1)[:, None] + b_zeros
        b_forget2 = tl.where(b_step < 0, 1.0, forget2)[:, None] + b_zeros
        b_weight1 = 1.0 / one_minus_exp(b_n * log_beta1)
        b_weight2 = 1.0 / one_minus_exp(b_n * log_beta2)
        b_means, _ = scan_affine(b_forget1, forget1 * b_means, b_mean, False)
        b_variances, _ = scan_affine(b_forget2, forget2 * b_variances, b_variance, False)
        b_means *= b_weight1[:, None]
        b_variances *= b_weight2[:, None]
    tl.store(corrected_means + o_s, b_means, mask=m_s)
    tl.store(rstds + o_s, tl.rsqrt(b_variances + eps), mask=m_s)
    m_r &= tl.min(o_g, axis=0) == 0
    tl.store(weights + first_row + o_r, b_weight1.to(tl.float64), mask=m_r)
    tl.store(weights + num_timesteps + first_row + o_r, b_weight2.to(tl.float64), mask=m_r)


@triton.jit
def normalise_kernel(
    x,
    scale,
    bias,
    corrected_means,
    rstds,
    y,
    num_timesteps,
    NUM_GROUPS: tl.constexpr,
    GROUP_SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
):
    """`y` `[B, L, D]`: each program SPAN of the timesteps of all batch rows, in tiles."""
    first_row, num_rows, o_g = locate_span(num_timesteps, NUM_GROUPS, SPAN, GROUPS)
    o_f, m_f = feature_offsets(o_g, NUM_GROUPS, GROUP_SIZE, PADDED)
    x, y = x + first_row * (NUM_GROUPS * GROUP_SIZE), y + first_row * (NUM_GROUPS * GROUP_SIZE)
    corrected_means, rstds = corrected_means + first_row * NUM_GROUPS, rstds + first_row * NUM_GROUPS
    b_scale = tl.load(scale + o_f, mask=m_f, other=0.0)
    b_bias = tl.load(bias + o_f, mask=m_f, other=0.0)
    o_t = tl.arange(0, ROWS)
    b_next = load_features(x, o_t, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
    for start in range(0, num_rows, ROWS):
        o_r = start + o_t
        b_x = b_next.to(tl.float32)
        # The next tile is under way while this one is worked on.
        b_next = load_features(x, o_r + ROWS, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
        o_s = o_r[:, None] * NUM_GROUPS + o_g[None, :]
        m_s = (o_r < num_rows)[:, None] & (o_g < NUM_GROUPS)[None, :]
        b_mean = tl.load(corrected_means + o_s, mask=m_s, other=0.0)
        b_rstd = tl.load(rstds + o_s, mask=m_s, other=0.0)
        b_y = (b_x - b_mean[:, :, None]) * b_rstd[:, :, None] * b_scale + b_bias
        store_features(y, b_y, o_r, num_rows, o_f, m_f, NUM_GROUPS * GROUP_SIZE)
