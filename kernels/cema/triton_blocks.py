"""Where the timesteps of a program lie, which documents they belong to, and the products that all kernels share.

A *span* is a stretch of consecutive blocks of one row; M spans are the columns of a program, which goes through their
blocks step by step. With REVERSE the blocks of a span are read from its last to its first and the timesteps of a block
from the last to the first. `documents` [B, L + 2] numbers the document of every timestep: that of timestep t stands at
t + 1, the number of the state before the first timestep at 0, that of the gradient of the last state at L + 1.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def span_places(column, num_columns, num_spans, blocks_per_span, num_blocks):
    """Of the spans `column` [M]: row, first block, number of blocks (0 beyond the last span)."""
    row = column // num_spans
    first = (column % num_spans) * blocks_per_span
    return row, first, tl.where(column < num_columns, tl.minimum(num_blocks - first, blocks_per_span), 0)


@triton.jit
def block_at(step, first, count, REVERSE: tl.constexpr):
    """Of each span the block that a step reads."""
    if REVERSE:
        return first + count - 1 - step
    else:
        return first + step


@triton.jit
def block_offsets(row, block, length, d, num_features, T: tl.constexpr, REVERSE: tl.constexpr):
    """Offsets [BLOCK_D, T, M] of the blocks' timesteps in `[B, L, D]`, in the order of reading."""
    t = tl.arange(0, T)
    if REVERSE:
        t = T - 1 - t
    begin = (row.to(tl.int64) * length + block.to(tl.int64) * T) * num_features
    return begin[None, None, :] + (t * num_features)[None, :, None] + d[:, None, None]


@triton.jit
def load_documents(pointer, row, block, valid, length, T: tl.constexpr, REVERSE: tl.constexpr):
    """Documents of the timesteps [T, M] in the order of reading, of the state before the block and of its end [M]."""
    t = tl.arange(0, T)
    if REVERSE:
        t = T - 1 - t
    begin = row.to(tl.int64) * (length + 2) + block.to(tl.int64) * T + 1
    inside = tl.load(pointer + begin[None, :] + t[:, None], mask=valid[None, :], other=0)
    low = tl.load(pointer + begin + (0 if REVERSE else -1), mask=valid, other=0)
    high = tl.load(pointer + begin + (T if REVERSE else T - 1), mask=valid, other=0)
    if REVERSE:
        return inside, high, low
    else:
        return inside, low, high


@triton.jit
def load_table(
    pointer,
    d,
    num_features,
    plane,
    N: tl.constexpr,
    T: tl.constexpr,
    FLIP: tl.constexpr,
    OVER_STATES: tl.constexpr,
    DOT_DTYPE: tl.constexpr,
):
    """One part of a table `[R, D, N, T]`, as [BLOCK_D, N, T], or as [BLOCK_D, T, N] where states are summed over."""
    n = tl.arange(0, N)
    t = tl.arange(0, T)
    source = T - 1 - t if FLIP else t
    base = plane * num_features + d
    if OVER_STATES:
        offsets = (base[:, None, None] * N + n[None, None, :]) * T + source[None, :, None]
    else:
        offsets = (base[:, None, None] * N + n[None, :, None]) * T + source[None, None, :]
    return tl.load(pointer + offsets, mask=(d < num_features)[:, None, None], other=0.0).to(DOT_DTYPE)


@triton.jit
def load_toeplitz(pointer, d, num_features, T: tl.constexpr, DOT_DTYPE: tl.constexpr):
    """The triangular matrix `[BLOCK_D, T, T]` of the kernel `[D, T]`."""
    i = tl.arange(0, T)
    lag = i[:, None] - i[None, :]
    mask = (d < num_features)[:, None, None] & (lag >= 0)[None, :, :]
    return tl.load(pointer + d[:, None, None] * T + lag[None, :, :], mask=mask, other=0.0).to(DOT_DTYPE)


@triton.jit
def number_product(table_re, table_im, x, PRECISION: tl.constexpr, COMPLEX: tl.constexpr):
    """A table of numbers times real columns."""
    re = tl.dot(table_re, x, input_precision=PRECISION)
    im = tl.zeros_like(re)
    if COMPLEX:
        im = tl.dot(table_im, x, input_precision=PRECISION)
    return re, im
