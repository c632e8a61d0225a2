"""Recurrences over time in Triton: how the effects of two stretches of time are joined, and the scans made of that.

A stretch that holds a document start is marked, and what came before it is then left out by selection, never by a
product with zero: neither a rounding error nor an inf or nan crosses it.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl


@triton.jit
def one_minus_exp(b_z):
    """`1 - e^z` for `z <= 0` to the precision of float32, also where `z` is tiny."""
    b_small = tl.maximum(b_z, -0.5)
    b_series = 1.0 + b_small / 10.0
    for step in tl.static_range(8):
        b_series = 1.0 + b_small / (9.0 - step) * b_series
    return tl.where(b_z > -0.5, -b_z * b_series, 1.0 - tl.exp(b_z))


@triton.jit
def later_count(first, second):
    """Timesteps since the latest restart in two stretches; a stretch that holds a restart has them negative."""
    return tl.where(second < 0, second, tl.where(first < 0, first - second, first + second))


@triton.jit
def affine(first_forget, first_value, second_forget, second_value):
    """`s -> (1 - forget) s + value`, first one then the other; with `forget` one nothing of `s` is left.

    What is forgotten rather than what is kept, since float32 holds 1e-4 to seven digits and 0.9999 to four of those.
    """
    alone = second_forget == 1
    forget = tl.where(alone, second_forget, first_forget + second_forget * (1 - first_forget))
    return forget, tl.where(alone, second_value, first_value - second_forget * first_value + second_value)


@triton.jit
def pooled(first_count, first_mean, first_variance, second_count, second_mean, second_variance):
    """Count, mean and variance of two stretches together (Chan, Golub, LeVeque); counts as in `later_count`."""
    alone = (second_count < 0) | (first_count == 0)
    first_size, second_size = tl.abs(first_count), tl.abs(second_count)
    weight = second_size / tl.maximum(first_size + second_size, 1)
    delta = second_mean - first_mean
    mean = tl.where(alone, second_mean, first_mean + weight * delta)
    variance = first_variance + weight * (second_variance - first_variance + (1 - weight) * delta * delta)
    count = later_count(first_count, second_count)
    return count, mean, tl.where(alone, second_variance, variance)


@triton.jit
def scan_affine(b_forget, b_value, b_carry, REVERSE: tl.constexpr):
    """All states of an affine recurrence along axis 0 that begins with `b_carry` `[X]`; `b_forget`, `b_value` `[T, X]`.

    Returns the states `[T, X]`, and the last of them in the order of the scan.
    """
    b_forget, b_value = tl.associative_scan((b_forget, b_value), 0, affine, reverse=REVERSE)
    b_carry = b_carry[None, :]
    b_states = tl.where(b_forget == 1, b_value, b_carry - b_forget * b_carry + b_value)
    return b_states, row(b_states, 0 if REVERSE else b_states.shape[0] - 1)


@triton.jit
def row(b_x, index):
    """Row `index` of `[T, X]`, as `[X]`."""
    o_t = tl.arange(0, b_x.shape[0])
    return tl.sum(tl.where((o_t == index)[:, None], b_x, tl.zeros_like(b_x)), axis=0)


@triton.jit
def chunk_forget(b_size, log_beta):
    """What chunks of so many timesteps forget of the state before them, float64: all where a document begins in one."""
    return tl.where(b_size < 0, 1.0, one_minus_exp(tl.abs(b_size).to(tl.float32) * log_beta)).to(tl.float64)
