"""Seeded inputs of the operation, for tests and benchmarks."""

from typing import NamedTuple

import torch
from torch import Tensor

from gecko_lab.kernels.timestep_norm.statistics import TimestepStatistics, statistics_dtype


class Shape(NamedTuple):
    """`B`, `L`, `D`, `G`."""

    batch: int
    length: int
    num_features: int
    num_groups: int


TEST_SHAPES = [(1, 1, 4, 1), (3, 1, 12, 3), (2, 2, 10, 2), (2, 17, 12, 4), (1, 64, 20, 5), (3, 131, 24, 2)]
"""`(B, L, D, G)`: odd and even lengths, within, at and beyond the scan's blocks; small and large groups."""


class TimestepNormInputs(NamedTuple):
    """Arguments of `timestep_norm` and gradients for its outputs; dtypes as the operation returns them."""

    x: Tensor
    scale: Tensor
    bias: Tensor
    state: TimestepStatistics | None
    document_starts: Tensor | None
    dy: Tensor
    dmean: Tensor
    dvariance: Tensor


def timestep_norm_inputs(
    batch_size: int,
    length: int,
    dim: int,
    num_groups: int,
    *,
    dtype: torch.dtype = torch.float32,
    with_state: bool = False,
    with_documents: bool = False,
    seed: int = 0,
) -> TimestepNormInputs:
    """Draw activations whose level and spread differ by feature and drift in time, on CPU.

    Args:
        batch_size, length, dim, num_groups: `B`, `L`, `D`, `G`.
        dtype: Of `x` and `dy`; scale, bias and states are float32, or float64 when this is.
        with_state: Whether a document is under way, of another length in each row.
        with_documents: Whether documents begin, each timestep with probability about one in nine.
        seed: Of the generator.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    drift = normal(batch_size, length, 1).cumsum(1) / length**0.5
    x = 0.5 * normal(dim) + drift + normal(batch_size, length, dim) * (0.5 * normal(dim)).exp()
    state = None
    if with_state:
        count = torch.randint(1, 50, (batch_size,), generator=generator)
        mean, variance = normal(batch_size, num_groups), normal(batch_size, num_groups).exp()
        state = TimestepStatistics(count, *(t.to(statistics_dtype(dtype)) for t in (mean, variance)))
    document_starts = None
    if with_documents:
        document_starts = torch.rand(batch_size, length, generator=generator) < 0.11
    exact = [1 + 0.2 * normal(dim), 0.2 * normal(dim), normal(batch_size, num_groups), normal(batch_size, num_groups)]
    scale, bias, dmean, dvariance = (t.to(statistics_dtype(dtype)) for t in exact)
    dy = normal(batch_size, length, dim).to(dtype)
    return TimestepNormInputs(x.to(dtype), scale, bias, state, document_starts, dy, dmean, dvariance)
