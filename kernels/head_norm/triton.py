"""Head normalisation on the GPU: `z` is read once in each direction.

Legend: i_ index of a program, o_ offsets, m_ masks, p_ pointers, b_ values in registers. H heads, S key dim, M maps.
A program walks over tiles of timesteps of one head, with what belongs to features in registers: factors and shifts
forward, the sums that become gradients of the parameters backward. Each program writes its sums, and these are added
up in a fixed order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from gecko_lab.kernels.rotary.triton import load_angles, turn

FORWARD_PROGRAMS = 4096
BACKWARD_PROGRAMS = 1024
"""Programs of one launch where there are tiles enough; each of a backward pass writes sums of its own."""


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
    """Tiles of 1,024 features or one timestep: one warp to a row of 256, whose sums need no other warp."""
    block_s = max(2, triton.next_power_of_2(key_dim))
    return Launch(block_s, max(1, 1024 // block_s), 4)


def share_tiles(num_rows: int, block_t: int, num_heads: int, num_programs: int) -> tuple[int, int]:
    """Programs of each head, and tiles that each of them walks over."""
    num_tiles = triton.cdiv(num_rows, block_t)
    tiles = triton.cdiv(num_tiles * num_heads, num_programs)
    return triton.cdiv(num_tiles, tiles), tiles


@triton.jit
def load_normalised(z, o_z, mask, eps, S: tl.constexpr):
    """Normalised heads `[T, S]` and their factors `[T, 1]`; zero where masked."""
    b_z = tl.load(z + o_z, mask=mask, other=0.0).to(tl.float32)
    b_rstd = tl.rsqrt(tl.sum(b_z * b_z, axis=1) / S + eps)[:, None]
    return b_z * b_rstd, b_rstd


@triton.jit
def load_scale(p_gamma, o_s, S: tl.constexpr):
    """`(γ + 1) / √S` `[1, S]`."""
    return ((tl.load(p_gamma + o_s, mask=o_s < S, other=0.0) + 1) / tl.sqrt(S * 1.0))[None, :]


@triton.jit
def map_and_store(p_y, p_gamma, p_beta, b_normed, b_cos, b_sin, o_s, mask, TURNED: tl.constexpr, S: tl.constexpr):
    """One output: affine map and rotation of `[T, S]`."""
    b_shift = tl.load(p_beta + o_s, mask=o_s < S, other=0.0)[None, :]
    b_y = b_normed * load_scale(p_gamma, o_s, S) + b_shift
    if TURNED:
        b_y = turn(b_y, b_cos, b_sin)
    tl.store(p_y, b_y, mask=mask)


@triton.jit
def head_norm_forward_kernel(
    z, gamma, beta, cos, sin, y_0, y_1, y_2, y_3,
    num_rows, length, num_heads, num_rope_heads, tiles, eps,
    S: tl.constexpr, M: tl.constexpr, ROTATED: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """`z`, `y_i` `[num_rows, H, S]`, `gamma`, `beta` float32 `[M, H, S]`, `cos`, `sin` float32 `[length, S / 2]`."""
    i_t, i_h = tl.program_id(0), tl.program_id(1)
    o_s = tl.arange(0, BLOCK_S)
    stride = num_heads * S
    p_gamma, p_beta = gamma + i_h * S, beta + i_h * S
    for tile in range(tiles):
        o_t = (i_t * tiles + tile) * BLOCK_T + tl.arange(0, BLOCK_T)
        m_t = o_t < num_rows
        mask = m_t[:, None] & (o_s < S)[None, :]
        o_z = o_t.to(tl.int64)[:, None] * stride + i_h * S + o_s[None, :]
        b_normed, _ = load_normalised(z, o_z, mask, eps, S)
        b_cos, b_sin = load_angles(cos, sin, o_t % length, m_t, i_h < num_rope_heads, ROTATED, S, BLOCK_S)
        map_and_store(y_0 + o_z, p_gamma, p_beta, b_normed, b_cos, b_sin, o_s, mask, ROTATED, S)
        map_and_store(y_1 + o_z, p_gamma + stride, p_beta + stride, b_normed, b_cos, b_sin, o_s, mask, ROTATED, S)
        if M == 4:
            p_gamma_2, p_beta_2 = p_gamma + 2 * stride, p_beta + 2 * stride
            map_and_store(y_2 + o_z, p_gamma_2, p_beta_2, b_normed, b_cos, b_sin, o_s, mask, False, S)
            p_gamma_3, p_beta_3 = p_gamma + 3 * stride, p_beta + 3 * stride
            map_and_store(y_3 + o_z, p_gamma_3, p_beta_3, b_normed, b_cos, b_sin, o_s, mask, False, S)


@triton.jit
def add_gradient(
    p_dy, p_gamma, b_normed, b_dnormed, b_dgamma, b_dbeta, b_cos, b_sin, o_s, mask,
    TURNED: tl.constexpr, S: tl.constexpr,
):  # fmt: skip
    """Add what one output's gradient gives to those of the normalised heads, of γ and of β, all `[T, S]`."""
    b_dy = tl.load(p_dy, mask=mask, other=0.0).to(tl.float32)
    if TURNED:
        b_dy = turn(b_dy, b_cos, -b_sin)
    return b_dnormed + b_dy * load_scale(p_gamma, o_s, S), b_dgamma + b_dy * b_normed, b_dbeta + b_dy


@triton.jit
def store_sums(p_sums, b_dgamma, b_dbeta, o_s, M: tl.constexpr, S: tl.constexpr, stride):
    """Sum over timesteps, and write for one map."""
    tl.store(p_sums + o_s, tl.sum(b_dgamma, axis=0) / tl.sqrt(S * 1.0), mask=o_s < S)
    tl.store(p_sums + M * stride + o_s, tl.sum(b_dbeta, axis=0), mask=o_s < S)


@triton.jit
def head_norm_backward_kernel(
    dy_0, dy_1, dy_2, dy_3, z, gamma, cos, sin, dz, sums,
    num_rows, length, num_heads, num_rope_heads, tiles, eps,
    S: tl.constexpr, M: tl.constexpr, ROTATED: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_T: tl.constexpr,
):  # fmt: skip
    """`dy_i`, `z`, `dz` `[num_rows, H, S]`, `sums` float32 `[programs, 2 (of γ, of β), M, H, S]`; else as forward."""
    i_t, i_h = tl.program_id(0), tl.program_id(1)
    o_s = tl.arange(0, BLOCK_S)
    stride = num_heads * S
    p_gamma = gamma + i_h * S
    b_dgamma_0 = tl.zeros([BLOCK_T, BLOCK_S], dtype=tl.float32)
    b_dbeta_0, b_dgamma_1, b_dbeta_1 = b_dgamma_0, b_dgamma_0, b_dgamma_0
    if M == 4:
        b_dgamma_2, b_dbeta_2, b_dgamma_3, b_dbeta_3 = b_dgamma_0, b_dgamma_0, b_dgamma_0, b_dgamma_0
    for tile in range(tiles):
        o_t = (i_t * tiles + tile) * BLOCK_T + tl.arange(0, BLOCK_T)
        m_t = o_t < num_rows
        mask = m_t[:, None] & (o_s < S)[None, :]
        o_z = o_t.to(tl.int64)[:, None] * stride + i_h * S + o_s[None, :]
        b_normed, b_rstd = load_normalised(z, o_z, mask, eps, S)
        b_cos, b_sin = load_angles(cos, sin, o_t % length, m_t, i_h < num_rope_heads, ROTATED, S, BLOCK_S)
        b_dnormed = tl.zeros([BLOCK_T, BLOCK_S], dtype=tl.float32)
        b_dnormed, b_dgamma_0, b_dbeta_0 = add_gradient(
            dy_0 + o_z, p_gamma, b_normed, b_dnormed, b_dgamma_0, b_dbeta_0, b_cos, b_sin, o_s, mask, ROTATED, S
        )
        b_dnormed, b_dgamma_1, b_dbeta_1 = add_gradient(
            dy_1 + o_z, p_gamma + stride, b_normed, b_dnormed, b_dgamma_1, b_dbeta_1, b_cos, b_sin, o_s, mask,
            ROTATED, S,
        )  # fmt: skip
        if M == 4:
            b_dnormed, b_dgamma_2, b_dbeta_2 = add_gradient(
                dy_2 + o_z, p_gamma + 2 * stride, b_normed, b_dnormed, b_dgamma_2, b_dbeta_2, b_cos, b_sin, o_s, mask,
                False, S,
            )  # fmt: skip
            b_dnormed, b_dgamma_3, b_dbeta_3 = add_gradient(
                dy_3 + o_z, p_gamma + 3 * stride, b_normed, b_dnormed, b_dgamma_3, b_dbeta_3, b_cos, b_sin, o_s, mask,
                False, S,
            )  # fmt: skip
        b_mean = tl.sum(b_dnormed * b_normed, axis=1)[:, None] / S
        tl.store(dz + o_z, (b_dnormed - b_normed * b_mean) * b_rstd, mask=mask)
    p_sums = sums + i_t.to(tl.int64) * (2 * M * stride) + i_h * S
    store_sums(p_sums, b_dgamma_0, b_dbeta_0, o_s, M, S, stride)
    store_sums(p_sums + stride, b_dgamma_1, b_dbeta_1, o_s, M, S, stride)
    if M == 4:
        store_sums(p_sums + 2 * stride, b_dgamma_2, b_dbeta_2, o_s, M, S, stride)
        store_sums(p_sums + 3 * stride, b_dgamma_3, b_dbeta_3, o_s, M, S, stride)


def head_norm_forward(
    z: Tensor,
    gamma: Tensor,
    beta: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
    eps: float,
) -> list[Tensor]:
    """As `head_norm_forward` of the backend torch."""
    z = z.contiguous()
    batch_size, length, width = z.shape
    num_maps, key_dim = gamma.shape[0], width // num_heads
    outputs = [z.new_empty(batch_size, length, num_heads, key_dim) for _ in range(num_maps)]
    launch = choose_launch(key_dim)
    num_rows = batch_size * length
    num_programs, tiles = share_tiles(num_rows, launch.block_t, num_heads, FORWARD_PROGRAMS)
    head_norm_forward_kernel[(num_programs, num_heads)](
        z, gamma.contiguous(), beta.contiguous(), *_tables(cos, sin), *_four(outputs),
        num_rows, length, num_heads, num_rope_heads, tiles, eps,
        S=key_dim, M=num_maps, ROTATED=cos is not None, BLOCK_S=launch.block_s, BLOCK_T=launch.block_t,
        num_warps=launch.num_warps,
    )  # fmt: skip
    return outputs


def head_norm_backward(
    gradients: list[Tensor],
    z: Tensor,
    gamma: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    num_heads: int,
    num_rope_heads: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `head_norm_backward` of the backend torch."""
    z = z.contiguous()
    batch_size, length, width = z.shape
    num_maps, key_dim = gamma.shape[0], width // num_heads
    launch = choose_launch(key_dim)
    num_rows = batch_size * length
    num_programs, tiles = share_tiles(num_rows, launch.block_t, num_heads, BACKWARD_PROGRAMS)
    dz = torch.empty_like(z)
    sums = gamma.new_empty(num_programs, 2, num_maps, width)
    head_norm_backward_kernel[(num_programs, num_heads)](
        *_four([gradient.contiguous() for gradient in gradients]), z, gamma.contiguous(), *_tables(cos, sin), dz, sums,
        num_rows, length, num_heads, num_rope_heads, tiles, eps,
        S=key_dim, M=num_maps, ROTATED=cos is not None, BLOCK_S=launch.block_s, BLOCK_T=launch.block_t,
        num_warps=launch.num_warps,
    )  # fmt: skip
    dgamma, dbeta = sums.sum(dim=0).unbind()
    return dz, dgamma, dbeta.clone()


def _tables(cos: Tensor | None, sin: Tensor | None) -> list[Tensor | None]:
    """Contiguous float32."""
    return [None if table is None else table.to(torch.float32).contiguous() for table in (cos, sin)]


def _four(tensors: list[Tensor]) -> list[Tensor | None]:
    """Two or four tensors, none in the place of those that are not there."""
    return [*tensors, *[None] * (4 - len(tensors))]
