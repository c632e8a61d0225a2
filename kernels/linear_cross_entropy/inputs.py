"""Seeded inputs of the linear cross-entropy for benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Tokens, their features, classes, and the tokens of one piece."""

    num_tokens: int
    num_features: int
    num_classes: int
    rows: int


class Inputs(NamedTuple):
    """The arguments: hidden `[tokens, D]`, weight `[classes, D]`, targets int64 `[tokens]`."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor


def make_inputs(shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Logits of variance 1, on CPU."""
    generator = torch.Generator().manual_seed(seed)
    num_tokens, num_features, num_classes, _ = shape
    hidden = torch.randn(num_tokens, num_features, generator=generator, dtype=torch.float64)
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64) * num_features**-0.5
    targets = torch.randint(num_classes, (num_tokens,), generator=generator)
    return Inputs(hidden.to(dtype), weight.to(dtype), targets)
