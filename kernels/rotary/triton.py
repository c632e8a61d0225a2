"""Rotary positions on the GPU: one read, one write.

Legend: i_ index of a program, o_ offsets, m_ masks, b_ values in registers. A program turns a tile of timesteps of one
head; the pairs `(2i, 2i + 1)` lie in one thread, so that nothing is exchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


class Launch(NamedTuple):
    """Constants of a launch.

    Attributes:
        block_s: features of a tile, a power of two.
        block_t: timesteps of a tile.
        num_warps: of a program.
    """

    block_s: int
    block_t: int
    num_warps: int


def choose_launch(key_dim: int) -> Launch:
    """Tiles of 2,048 features or one timestep."""
    block_s = max(2, triton.next_power_of_2(key_dim))
    return Launch(block_s, max(1, 2048 // block_s), 4)


@triton.jit
def turn(b_x, b_cos, b_sin):
    """Turn the pairs of `[T, S]` by angles `[T, S / 2]`."""
    b_even, b_odd = tl.split(tl.reshape(b_x, (b_x.shape[0], b_x.shape[1] // 2, 2)))
    b_turned = tl.join(b_even * b_cos - b_odd * b_sin, b_even * b_sin + b_odd * b_cos)
    return tl.reshape(b_turned, b_x.shape)


@triton.jit
def load_angles(cos, sin, o_l, m_t, rotated, GIVEN: tl.constexpr, S: tl.constexpr, BLOCK_S: tl.constexpr):
    """Cosines and sines `[T, BLOCK_S / 2]` of the timesteps `o_l`; of the angle zero unless `rotated` and given."""
    o_p = tl.arange(0, BLOCK_S // 2)
    o_table = o_l.to(tl.int64)[:, None] * (S // 2) + o_p[None, :]
    m_table = m_t[:, None] & (o_p < S // 2)[None, :] & rotated
    if GIVEN:
        b_cos = tl.load(cos + o_table, mask=m_table, other=1.0)
        b_sin = tl.load(sin + o_table, mask=m_table, other=0.0)
    else:
        b_cos = tl.full(m_table.shape, 1.0, tl.float32)
        b_sin = tl.full(m_table.shape, 0.0, tl.float32)
    return b_cos, b_sin


@triton.jit
def rotary_kernel(
    x,
    cos,
    sin,
    y,
    num_rows,
    length,
    num_heads,
    num_rope_heads,
    S: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_T: tl.constexpr,
    INVERSE: tl.constexpr,
):
    """`x`, `y` `[num_rows, num_heads, S]`; row `r` is timestep `r % length`; `cos`, `sin` float32 `[length, S / 2]`."""
    i_t, i_h = tl.program_id(0), tl.program_id(1)
    o_t, o_s = i_t * BLOCK_T + tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_S)
    m_t = o_t < num_rows
    mask = m_t[:, None] & (o_s < S)[None, :]
    o_x = (o_t.to(tl.int64)[:, None] * num_heads + i_h) * S + o_s[None, :]
    b_x = tl.load(x + o_x, mask=mask, other=0.0).to(tl.float32)
    b_cos, b_sin = load_angles(cos, sin, o_t % length, m_t, i_h < num_rope_heads, True, S, BLOCK_S)
    if INVERSE:
        b_sin = -b_sin
    tl.store(y + o_x, turn(b_x, b_cos, b_sin), mask=mask)


def rotary_forward(x: Tensor, cos: Tensor, sin: Tensor, num_rope_heads: int, inverse: bool) -> Tensor:
    """As `rotary_forward` of the backend torch."""
    x = x.contiguous()
    batch_size, length, num_heads, key_dim = x.shape
    y = torch.empty_like(x)
    launch = choose_launch(key_dim)
    rotary_kernel[(triton.cdiv(batch_size * length, launch.block_t), num_heads)](
        x,
        cos.to(torch.float32).contiguous(),
        sin.to(torch.float32).contiguous(),
        y,
        batch_size * length,
        length,
        num_heads,
        num_rope_heads,
        S=key_dim,
        BLOCK_S=launch.block_s,
        BLOCK_T=launch.block_t,
        INVERSE=inverse,
        num_warps=launch.num_warps,
    )
    return y
