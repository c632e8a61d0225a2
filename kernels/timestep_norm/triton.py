"""Timestep normalisation on the GPU: forward and backward each read their inputs twice and write their output once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from gecko_lab.kernels.timestep_norm.inputs import Shape
from gecko_lab.kernels.timestep_norm.triton_backward import (
    carry_gradients_kernel,
    gradient_sums_kernel,
    input_gradient_kernel,
    statistics_gradients_kernel,
)
from gecko_lab.kernels.timestep_norm.triton_forward import (
    carry_statistics_kernel,
    moments_kernel,
    normalise_kernel,
    running_statistics_kernel,
)

TARGET_PROGRAMS = 1024
"""Programs below which chunks are made shorter: about eight for each multiprocessor."""
Constants = dict[str, Any]
"""Values of a kernel's `tl.constexpr` arguments, and its `num_warps`."""


def chunk_length(shape: Shape) -> int:
    """Timesteps of a chunk, which is what one program walks over: 128, fewer where that leaves processors idle."""
    chunk = 128
    while chunk > 32 and shape.batch * shape.length // chunk * triton.cdiv(shape.num_groups, 8) < TARGET_PROGRAMS:
        chunk //= 2
    return chunk


def tile_constants(shape: Shape, *, elements: int) -> Constants:
    """Of kernels that read `[B, L, D]`: tiles of 512 features or one group, and of so many elements for each thread."""
    group_size = shape.num_features // shape.num_groups
    padded = triton.next_power_of_2(group_size)
    groups = min(triton.next_power_of_2(shape.num_groups), max(1, 512 // padded))
    num_warps = min(16, max(4, padded * groups // 512))
    return {
        "NUM_GROUPS": shape.num_groups,
        "GROUP_SIZE": group_size,
        "PADDED": padded,
        "GROUPS": groups,
        "ROWS": min(32, max(1, elements * 32 * num_warps // (padded * groups))),
        "num_warps": num_warps,
    }


def span_constants(shape: Shape, *, elements: int) -> Constants:
    """Of kernels that take timesteps as they come, in several tiles so that scale and bias are read for all of them."""
    constants = tile_constants(shape, elements=elements)
    return {**constants, "SPAN": 4 * constants["ROWS"]}


def walk_constants(shape: Shape, betas: Sequence[float] | None, *, elements: int) -> Constants:
    """Of kernels that walk over a chunk in tiles."""
    return {**tile_constants(shape, elements=elements), "CHUNK": chunk_length(shape), "CUMULATIVE": betas is None}


def scan_constants(shape: Shape, betas: Sequence[float] | None) -> Constants:
    """Of kernels that scan over the timesteps of a chunk."""
    return {
        "NUM_GROUPS": shape.num_groups,
        "GROUPS": min(8, triton.next_power_of_2(shape.num_groups)),
        "CHUNK": chunk_length(shape),
        "CUMULATIVE": betas is None,
        "num_warps": 4,
    }


def carry_constants(shape: Shape, betas: Sequence[float] | None) -> Constants:
    """Of kernels that scan over chunks: few groups a program, since there are few programs and each only waits."""
    return {
        "NUM_GROUPS": shape.num_groups,
        "GROUPS": min(2, triton.next_power_of_2(shape.num_groups)),
        "CHUNKS": min(128, triton.next_power_of_2(triton.cdiv(shape.length, chunk_length(shape)))),
        "CUMULATIVE": betas is None,
        "num_warps": 4,
    }


def forward_constants(shape: Shape, betas: Sequence[float] | None) -> dict[str, Constants]:
    """Of each kernel of the forward pass, by its part."""
    return {
        "moments": walk_constants(shape, betas, elements=32),
        "carry": carry_constants(shape, betas),
        "statistics": scan_constants(shape, betas),
        "normalise": span_constants(shape, elements=32),
    }


def backward_constants(shape: Shape, betas: Sequence[float] | None) -> dict[str, Constants]:
    """Of each kernel of the backward pass, by its part."""
    group_size = shape.num_features // shape.num_groups
    return {
        "sums": walk_constants(shape, betas, elements=16),
        "carry": carry_constants(shape, betas),
        "statistics": {**scan_constants(shape, betas), "GROUP_SIZE": group_size},
        "input": span_constants(shape, elements=16),
    }


class _Decay(NamedTuple):
    """What the kernels need of the betas; zeros for cumulative statistics, which forget nothing."""

    log_beta1: float
    log_beta2: float
    forget1: float
    forget2: float

    @classmethod
    def of(cls, betas: Sequence[float] | None) -> _Decay:
        if betas is None:
            return cls(0.0, 0.0, 0.0, 0.0)
        beta1, beta2 = betas
        return cls(math.log(beta1), math.log(beta2), 1 - beta1, 1 - beta2)


def timestep_norm_forward(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    count: Tensor,
    mean: Tensor,
    variance: Tensor,
    document_starts: Tensor | None,
    num_groups: int,
    betas: Sequence[float] | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `timestep_norm_forward` of the backend torch, for `x` in float32, bfloat16 or float16."""
    x, scale, bias = x.contiguous(), scale.contiguous(), bias.contiguous()
    starts = _bytes(document_starts)
    batch_size, length, num_features = x.shape
    shape = Shape(batch_size, length, num_features, num_groups)
    constants = forward_constants(shape, betas)
    num_chunks = triton.cdiv(shape.length, chunk_length(shape))
    num_timesteps = shape.batch * shape.length
    decay = _Decay.of(betas)

    per_chunk = torch.empty(4, shape.batch, num_chunks, num_groups, dtype=torch.float32, device=x.device)
    chunk_means, chunk_variances, carried_means, carried_variances = per_chunk
    chunk_counts = torch.empty(shape.batch, num_chunks, dtype=torch.int32, device=x.device)
    carried_counts = torch.empty(shape.batch, num_chunks, dtype=torch.int64, device=x.device)
    timestep_mean, corrected_mean, rstd, timestep_variance = (
        torch.empty(shape.batch, shape.length, num_groups, dtype=torch.float32, device=x.device) for _ in range(4)
    )
    moments_kernel[_grid(shape.batch * num_chunks, constants["moments"])](
        x,
        starts,
        timestep_mean,
        timestep_variance,
        chunk_counts,
        chunk_means,
        chunk_variances,
        shape.length,
        *decay,
        **constants["moments"],
    )

    final_count, final_mean, final_variance = (
        torch.empty_like(state, memory_format=torch.contiguous_format) for state in (count, mean, variance)
    )
    carry_statistics_kernel[_grid(shape.batch, constants["carry"])](
        chunk_counts,
        chunk_means,
        chunk_variances,
        count.contiguous(),
        mean.contiguous(),
        variance.contiguous(),
        carried_counts,
        carried_means,
        carried_variances,
        final_count,
        final_mean,
        final_variance,
        num_chunks,
        decay.log_beta1,
        decay.log_beta2,
        **constants["carry"],
    )

    weights = torch.empty(2, shape.batch, shape.length, dtype=torch.float64, device=x.device)
    running_statistics_kernel[_grid(shape.batch * num_chunks, constants["statistics"])](
        timestep_mean,
        timestep_variance,
        starts,
        carried_counts,
        carried_means,
        carried_variances,
        weights,
        corrected_mean,
        rstd,
        num_timesteps,
        shape.length,
        *decay,
        eps,
        **constants["statistics"],
    )

    y = torch.empty_like(x)
    num_spans = triton.cdiv(num_timesteps, constants["normalise"]["SPAN"])
    normalise_kernel[_grid(num_spans, constants["normalise"])](
        x, scale, bias, corrected_mean, rstd, y, num_timesteps, **constants["normalise"]
    )
    return y, final_count, final_mean, final_variance, weights, timestep_mean, corrected_mean, rstd


def timestep_norm_backward(
    dy: Tensor,
    dfinal_mean: Tensor,
    dfinal_variance: Tensor,
    x: Tensor,
    scale: Tensor,
    count: Tensor,
    mean: Tensor,
    document_starts: Tensor | None,
    weights: Tensor,
    timestep_mean: Tensor,
    corrected_mean: Tensor,
    rstd: Tensor,
    betas: Sequence[float] | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `timestep_norm_backward` of the backend torch; the same bits on every call."""
    x, dy, scale = x.contiguous(), dy.contiguous(), scale.contiguous()
    starts = _bytes(document_starts)
    num_groups = rstd.shape[2]
    batch_size, length, num_features = x.shape
    shape = Shape(batch_size, length, num_features, num_groups)
    constants = backward_constants(shape, betas)
    num_chunks = triton.cdiv(shape.length, chunk_length(shape))
    num_timesteps = shape.batch * shape.length
    decay = _Decay.of(betas)

    per_chunk = torch.empty(4, shape.batch, num_chunks, num_groups, dtype=torch.float32, device=x.device)
    chunk_p, chunk_q, carried_p, carried_q = per_chunk
    chunk_counts = torch.empty(shape.batch, num_chunks, dtype=torch.int32, device=x.device)
    p, q, offsets, slopes = (torch.empty_like(rstd) for _ in range(4))
    partial = torch.empty(2, shape.batch * num_chunks, shape.num_features, dtype=torch.float32, device=x.device)
    gradient_sums_kernel[_grid(shape.batch * num_chunks, constants["sums"])](
        dy,
        x,
        scale,
        starts,
        weights,
        corrected_mean,
        rstd,
        p,
        q,
        chunk_counts,
        chunk_p,
        chunk_q,
        *partial,
        num_timesteps,
        shape.length,
        decay.log_beta1,
        decay.log_beta2,
        **constants["sums"],
    )
    dscale, dbias = partial[0].sum(dim=0), partial[1].sum(dim=0)

    dmean = torch.empty_like(mean, memory_format=torch.contiguous_format)
    dvariance = torch.empty_like(mean, memory_format=torch.contiguous_format)
    carry_gradients_kernel[_grid(shape.batch, constants["carry"])](
        dfinal_mean.contiguous(),
        dfinal_variance.contiguous(),
        count.contiguous(),
        mean.contiguous(),
        weights,
        corrected_mean,
        chunk_counts,
        chunk_p,
        chunk_q,
        carried_p,
        carried_q,
        dmean,
        dvariance,
        shape.length,
        num_chunks,
        decay.log_beta1,
        decay.log_beta2,
        **constants["carry"],
    )
    statistics_gradients_kernel[_grid(shape.batch * num_chunks, constants["statistics"])](
        p,
        q,
        timestep_mean,
        starts,
        carried_p,
        carried_q,
        offsets,
        slopes,
        shape.length,
        decay.forget1,
        decay.forget2,
        **constants["statistics"],
    )

    dx = torch.empty_like(x)
    num_spans = triton.cdiv(num_timesteps, constants["input"]["SPAN"])
    input_gradient_kernel[_grid(num_spans, constants["input"])](
        dy, x, scale, timestep_mean, rstd, offsets, slopes, dx, num_timesteps, **constants["input"]
    )
    return dx, dscale, dbias, dmean, dvariance


def _bytes(document_starts: Tensor | None) -> Tensor | None:
    return None if document_starts is None else document_starts.contiguous().view(torch.uint8)


def _grid(parts: int, constants: Constants) -> tuple[int]:
    """One program for each part of the timesteps and each block of groups."""
    return (parts * triton.cdiv(constants["NUM_GROUPS"], constants["GROUPS"]),)
