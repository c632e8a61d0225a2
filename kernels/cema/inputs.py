"""Seeded inputs of CEMA for tests and benchmarks, distributed like a model's."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Sizes of one case: ``num_parts`` is 2 for complex, 1 for real numbers; ``num_starts`` document starts a row."""

    batch: int
    length: int
    num_features: int
    num_states: int
    num_parts: int = 2
    num_starts: int = 0


TEST_SHAPES = (
    Shape(1, 1, 3, 2),
    Shape(2, 1, 3, 2, num_starts=1),
    Shape(2, 5, 3, 2, num_starts=2),
    Shape(2, 64, 4, 16),
    Shape(1, 65, 5, 3, num_starts=1),
    Shape(3, 127, 7, 4, num_starts=5),
    Shape(2, 129, 6, 16, num_parts=1, num_starts=3),
    Shape(2, 200, 5, 1),
    Shape(2, 257, 3, 5, num_starts=120),
    Shape(1, 515, 9, 16, num_starts=4),
)


class Inputs(NamedTuple):
    """The tensor arguments of ``cema``, in order."""

    x: Tensor
    p: Tensor
    decay: Tensor
    phase: Tensor | None
    gamma: Tensor
    state: Tensor
    document_starts: Tensor | None


def make_inputs(shape: Shape, seed: int = 0, dtype: torch.dtype = torch.float32) -> Inputs:
    """Inputs like an initialised model's with longer memories mixed in; all but x at least float32."""
    generator = torch.Generator().manual_seed(seed)
    batch, length, num_features, num_states, num_parts, num_starts = shape

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64)

    p = normal(num_features, num_states).mul(0.5).sigmoid()
    # slow channels too: 1 - p σ(δ) from about 0.5 to 0.999
    decay = 1 - p * normal(num_features, num_states).mul(2).sub(1).sigmoid()
    turns = torch.exp(-torch.arange(1, num_features + 1) * math.log(max(num_features, 2)) / num_features).double()
    phase = turns.unsqueeze(-1) * torch.arange(1, num_states + 1) * (math.tau / num_states)
    gamma = normal(num_features, num_states, num_parts) / math.sqrt(num_states)
    starts = None
    if num_starts:
        places = torch.rand(batch, length, generator=generator).topk(min(num_starts, length)).indices
        starts = torch.zeros(batch, length, dtype=torch.bool).scatter_(1, places, True)
    inner = torch.promote_types(dtype, torch.float32)
    return Inputs(
        x=normal(batch, length, num_features).to(dtype),
        p=p.to(inner),
        decay=decay.to(inner),
        phase=phase.to(inner) if num_parts == 2 else None,
        gamma=gamma.to(inner),
        state=normal(batch, num_features, num_states, num_parts).to(inner),
        document_starts=starts,
    )
