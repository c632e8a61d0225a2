"""Seeded inputs of the head normalisation, for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gecko_lab.kernels.rotary import rotary_angles


class Shape(NamedTuple):
    """Sizes of one case: `B`, `L`, `H`, `S`, and `M` affine maps."""

    batch: int
    length: int
    num_heads: int
    key_dim: int
    num_maps: int = 4


class Inputs(NamedTuple):
    """`z` `[B, L, H·S]`, `gamma` and `beta` `[M, H·S]`."""

    z: Tensor
    gamma: Tensor
    beta: Tensor


def make_inputs(shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Heads of different size, parameters off their start, on CPU; parameters in at least float32."""
    generator = torch.Generator().manual_seed(seed)
    width = shape.num_heads * shape.key_dim
    z = torch.randn(shape.batch, shape.length, width, generator=generator, dtype=torch.float64)
    z *= torch.randn(shape.batch, shape.length, 1, generator=generator, dtype=torch.float64).exp()
    gamma, beta = 0.2 * torch.randn(2, shape.num_maps, width, generator=generator, dtype=torch.float64)
    wide = torch.promote_types(dtype, torch.float32)
    return Inputs(z.to(dtype), gamma.to(wide), beta.to(wide))


def make_angles(shape: Shape, device: torch.device, position: int = 4_000_000) -> tuple[Tensor, Tensor]:
    """Cosines and sines far into a stream, float64 `[L, S / 2]`."""
    return rotary_angles(position, shape.length, shape.key_dim, 500_000.0, device)
