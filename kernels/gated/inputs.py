"""Seeded inputs of the gate, for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Sizes of one case: `B`, `L`, `D`."""

    batch: int
    length: int
    num_features: int


class Inputs(NamedTuple):
    """Gate before its activation, what it gates, and what is added, `[B, L, D]`."""

    gate: Tensor
    x: Tensor
    addend: Tensor


def make_inputs(shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Normally distributed, gates from shut to wide open, on CPU."""
    generator = torch.Generator().manual_seed(seed)
    gate, x, addend = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    return Inputs((3 * gate).to(dtype), x.to(dtype), addend.to(dtype))
