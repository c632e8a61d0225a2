"""Seeded inputs of attention for benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Sizes of one case; `S` of keys, `V` of values."""

    batch: int
    length: int
    num_heads: int
    key_dim: int
    value_dim: int
    chunk_size: int


class Inputs(NamedTuple):
    """The queries and keys `[B, L, H, S]`, whose products have variance 1, and the values `[B, L, H, V]`."""

    q: Tensor
    k: Tensor
    v: Tensor


def make_inputs(shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Normally distributed, on CPU."""
    generator = torch.Generator().manual_seed(seed)

    def normal(width: int, scale: float = 1.0) -> Tensor:
        size = (shape.batch, shape.length, shape.num_heads, width)
        return (scale * torch.randn(size, generator=generator, dtype=torch.float64)).to(dtype)

    return Inputs(normal(shape.key_dim, shape.key_dim**-0.5), normal(shape.key_dim), normal(shape.value_dim))
