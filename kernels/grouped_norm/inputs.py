"""Seeded inputs of the grouped normalisation, for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Sizes of one case: `B`, `L`, `D`, `G`, and whether the means are subtracted."""

    batch: int
    length: int
    num_features: int
    num_groups: int
    centred: bool


class Inputs(NamedTuple):
    """`x` `[B, L, D]`, offset of the factor `[D]`, bias `[D]` or none."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None


def make_inputs(shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Features of different level and spread, parameters off their start, on CPU; parameters in at least float32."""
    generator = torch.Generator().manual_seed(seed)
    batch, length, num_features, _, centred = shape
    x = torch.randn(batch, length, num_features, generator=generator, dtype=torch.float64)
    weight, bias, level, spread = 0.3 * torch.randn(4, num_features, generator=generator, dtype=torch.float64)
    wide = torch.promote_types(dtype, torch.float32)
    x = level + x * spread.exp()
    return Inputs(x.to(dtype), weight.to(wide), bias.to(wide) if centred else None)
