"""Grouped normalisation on the GPU: each tensor passes once through memory in each direction.

Legend: i_ index of a program, o_ offsets, m_ masks, b_ values in registers. G groups, K features of a group. A program
walks over tiles of rows of one group; backward it keeps the sums that become gradients of weight and bias, which are
written per program and added up in a fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

FORWARD_PROGRAMS = 4096
BACKWARD_PROGRAMS = 512
"""Programs of one launch where there are tiles enough; each of a backward pass writes sums of its own."""


class Launch(NamedTuple):
    """Constants of a launch.

    Attributes:
        block_k: features of a tile, a power of two.
        block_n: rows of a tile.
        num_warps: of a program.
    """

    block_k: int
    block_n: int
    num_warps: int


def choose_launch(group_size: int) -> Launch:
    """Tiles of 1,024 features or one row; up to 1,024 features of a row are spread over four warps."""
    block_k = triton.next_power_of_2(group_size)
    return Launch(block_k, max(1, 1024 // block_k), min(16, max(4, block_k // 512)))


def share_tiles(num_rows: int, block_n: int, num_groups: int, num_programs: int) -> tuple[int, int]:
    """Programs of each group, and tiles that each of them walks over."""
    num_tiles = triton.cdiv(num_rows, block_n)
    tiles = max(1, triton.cdiv(num_tiles * num_groups, num_programs))
    return max(1, triton.cdiv(num_tiles, tiles)), tiles


@triton.jit
def load_normalised(x, o_x, mask, eps, K: tl.constexpr, CENTRED: tl.constexpr):
    """Normalised rows `[N, K]` of one group and their factors `[N, 1]`; zero where masked."""
    b_x = tl.load(x + o_x, mask=mask, other=0.0).to(tl.float32)
    if CENTRED:
        b_x = tl.where(mask, b_x - tl.sum(b_x, axis=1)[:, None] / K, 0.0)
    b_rstd = tl.rsqrt(tl.sum(b_x * b_x, axis=1) / K + eps)[:, None]
    return b_x * b_rstd, b_rstd


@triton.jit
def grouped_norm_forward_kernel(
    x, weight, bias, y, num_rows, num_groups, tiles, eps,
    K: tl.constexpr, CENTRED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`x`, `y` `[num_rows, G, K]`; `weight`, `bias` float32 `[G, K]` or none."""
    i_n, i_g = tl.program_id(0), tl.program_id(1)
    o_k = tl.arange(0, BLOCK_K)
    m_k = o_k < K
    for tile in range(tiles):
        o_n = (i_n * tiles + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        mask = (o_n < num_rows)[:, None] & m_k[None, :]
        o_x = (o_n.to(tl.int64)[:, None] * num_groups + i_g) * K + o_k[None, :]
        b_y, _ = load_normalised(x, o_x, mask, eps, K, CENTRED)
        if weight is not None:
            b_y *= 1 + tl.load(weight + i_g * K + o_k, mask=m_k, other=0.0)[None, :]
        if bias is not None:
            b_y += tl.load(bias + i_g * K + o_k, mask=m_k, other=0.0)[None, :]
        tl.store(y + o_x, b_y, mask=mask)


@triton.jit
def grouped_norm_backward_kernel(
    dy, x, weight, dx, dweight, dbias, num_rows, num_groups, tiles, eps,
    K: tl.constexpr, CENTRED: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`dy`, `x`, `dx` `[num_rows, G, K]`; `dweight`, `dbias` float32 `[programs, G, K]` or none."""
    i_n, i_g = tl.program_id(0), tl.program_id(1)
    o_k = tl.arange(0, BLOCK_K)
    m_k = o_k < K
    b_dweight = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    b_dbias = tl.zeros([BLOCK_N, BLOCK_K], dtype=tl.float32)
    for tile in range(tiles):
        o_n = (i_n * tiles + tile) * BLOCK_N + tl.arange(0, BLOCK_N)
        mask = (o_n < num_rows)[:, None] & m_k[None, :]
        o_x = (o_n.to(tl.int64)[:, None] * num_groups + i_g) * K + o_k[None, :]
        b_dy = tl.load(dy + o_x, mask=mask, other=0.0).to(tl.float32)
        b_normed, b_rstd = load_normalised(x, o_x, mask, eps, K, CENTRED)
        if weight is not None:
            b_dweight += b_dy * b_normed
            b_dbias += b_dy
            b_dy *= 1 + tl.load(weight + i_g * K + o_k, mask=m_k, other=0.0)[None, :]
        b_dx = b_dy - b_normed * (tl.sum(b_dy * b_normed, axis=1)[:, None] / K)
        if CENTRED:
            b_dx -= tl.sum(b_dy, axis=1)[:, None] / K
        tl.store(dx + o_x, b_dx * b_rstd, mask=mask)
    o_sums = (i_n.to(tl.int64) * num_groups + i_g) * K + o_k
    if dweight is not None:
        tl.store(dweight + o_sums, tl.sum(b_dweight, axis=0), mask=m_k)
    if dbias is not None:
        tl.store(dbias + o_sums, tl.sum(b_dbias, axis=0), mask=m_k)


def grouped_norm_forward(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, centred: bool, eps: float
) -> Tensor:
    """As `grouped_norm_forward` of the backend torch."""
    x = x.contiguous()
    y = torch.empty_like(x)
    num_rows, group_size = x.numel() // x.shape[-1], x.shape[-1] // num_groups
    launch = choose_launch(group_size)
    num_programs, tiles = share_tiles(num_rows, launch.block_n, num_groups, FORWARD_PROGRAMS)
    weight, bias = (None if t is None else t.contiguous() for t in (weight, bias))
    grouped_norm_forward_kernel[(num_programs, num_groups)](
        x, weight, bias, y, num_rows, num_groups, tiles, eps,
        K=group_size, CENTRED=centred, BLOCK_K=launch.block_k, BLOCK_N=launch.block_n, num_warps=launch.num_warps,
    )  # fmt: skip
    return y


def grouped_norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor | None, num_groups: int, centred: bool, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `grouped_norm_backward` of the backend torch."""
    dy, x = dy.contiguous(), x.contiguous()
    dx = torch.empty_like(x)
    num_rows, group_size = x.numel() // x.shape[-1], x.shape[-1] // num_groups
    launch = choose_launch(group_size)
    num_programs, tiles = share_tiles(num_rows, launch.block_n, num_groups, BACKWARD_PROGRAMS)
    shape = (num_programs, x.shape[-1])
    dweight = None if weight is None else x.new_empty(shape, dtype=torch.float32)
    dbias = None if weight is None or not centred else x.new_empty(shape, dtype=torch.float32)
    grouped_norm_backward_kernel[(num_programs, num_groups)](
        dy, x, None if weight is None else weight.contiguous(), dx, dweight, dbias, num_rows, num_groups, tiles, eps,
        K=group_size, CENTRED=centred, BLOCK_K=launch.block_k, BLOCK_N=launch.block_n, num_warps=launch.num_warps,
    )  # fmt: skip
    no_gradient = x.new_zeros(x.shape[-1], dtype=torch.float32)
    return (
        dx,
        no_gradient if dweight is None else dweight.sum(dim=0),
        no_gradient.clone() if dbias is None else dbias.sum(dim=0),
    )
