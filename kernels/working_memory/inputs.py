"""Seeded inputs for tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shape(NamedTuple):
    """Batch, sequence length, heads, key dim, value dim, chunk size."""

    B: int
    L: int
    H: int
    S: int
    V: int
    chunk_size: int


class Inputs(NamedTuple):
    """Arguments of the operation and a gradient of its output."""

    q: Tensor
    """[B, L, H, S]"""
    k: Tensor
    """[B, L, H, S]"""
    v: Tensor
    """[B, L, H, V]"""
    segments: Tensor | None
    """[B, L] int64"""
    dy: Tensor
    """[B, L, H, V]"""


def make_inputs(
    shape: Shape,
    *,
    document_starts: tuple[tuple[int, ...], ...] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> Inputs:
    """Normally distributed inputs of the first document on; `document_starts` lists later starts, one tuple a row."""
    generator = torch.Generator().manual_seed(seed)
    batch, length, heads, key_dim, value_dim, _ = shape

    def normal(width: int) -> Tensor:
        return torch.randn(batch, length, heads, width, generator=generator, dtype=torch.float64).to(device, dtype)

    segments = None
    if document_starts is not None:
        starts = torch.zeros(batch, length, dtype=torch.int64)
        for row, positions in enumerate(document_starts):
            starts[row, list(positions)] = 1
        segments = starts.cumsum(dim=1).to(device)
    return Inputs(normal(key_dim), normal(key_dim), normal(value_dim), segments, normal(value_dim))
