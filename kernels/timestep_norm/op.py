"""The operation `timestep_norm`: the one entry point, its checks, and the choice of a backend."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from gecko_lab.kernels.backends import choose_backend
from gecko_lab.kernels.operation import operation
from gecko_lab.kernels.timestep_norm.reference import timestep_norm_reference
from gecko_lab.kernels.timestep_norm.statistics import TimestepStatistics, statistics_dtype
from gecko_lab.kernels.timestep_norm.torch import timestep_norm_backward, timestep_norm_forward

Backend = Literal["auto", "triton", "torch", "reference"]


def timestep_norm(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    state: TimestepStatistics | None = None,
    document_starts: Tensor | None = None,
    *,
    num_groups: int,
    betas: tuple[float, float] | None = (0.999, 0.9999),
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> tuple[Tensor, TimestepStatistics]:
    """Normalise every timestep by group statistics of its document up to and including itself.

    `y_t = (x_t - mean_t) / sqrt(variance_t + eps) * scale + bias`, where mean and variance per group decay over time
    (timestep decay normalisation, Gecko, arXiv 2601.06463) or, with `betas=None`, weigh all elements seen alike
    (timestep normalisation, Megalodon, arXiv 2404.08801). The formulas stand in `reference.py`.

    Args:
        x: `[B, L, D]` float64, float32, bfloat16 or float16, `L >= 1`.
        scale: The full factor `1 + w`, `[D]`, any float dtype.
        bias: `[D]`, any float dtype.
        state: Statistics of the running document before this piece; None where the stream begins.
        document_starts: `[B, L]` bool, true where a document begins: statistics restart there. None for no start.
        num_groups: `G`, divides `D`.
        betas: Decay per timestep of mean and of variance, each in (0, 1); None for cumulative statistics.
        eps: Added to the variance.
        backend: "triton" (on a GPU), "torch", "reference" (a loop over time), or "auto": triton where it can run, else
            torch, but the reference for a single timestep.

    Returns:
        `y`, `[B, L, D]` in the dtype of `x`, and the statistics after the last timestep, in float32 (float64 when `x`
        is float64). Gradients flow to x, scale, bias and the incoming mean and variance, from `y` and the outgoing mean
        and variance; there are no second derivatives but through "reference".

    Raises:
        ValueError: for shapes, dtypes, betas or a backend that do not fit, saying which.
    """
    _check(x, scale, bias, state, document_starts, num_groups, betas)
    # A single timestep has nothing to scan: the formulas themselves are then the fastest backend.
    if backend == "auto" and x.shape[1] == 1:
        backend = "reference"
    choice = choose_backend("timestep_norm", backend, ("triton", "torch", "reference"), x)
    dtype = statistics_dtype(x.dtype)
    if state is None:
        state = TimestepStatistics.empty(x.shape[0], num_groups, dtype, x.device)
    count, mean, variance = state.count, state.mean.to(dtype), state.variance.to(dtype)
    if choice == "reference":
        state = TimestepStatistics(count, mean, variance)
        return timestep_norm_reference(x, scale, bias, state, document_starts, num_groups, betas, eps)
    y, count, mean, variance, _, _, _, _ = _timestep_norm(
        x, scale.to(dtype), bias.to(dtype), count, mean, variance, document_starts, num_groups, betas, eps, choice
    )
    return y, TimestepStatistics(count, mean, variance)


def _check(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    state: TimestepStatistics | None,
    document_starts: Tensor | None,
    num_groups: int,
    betas: tuple[float, float] | None,
) -> None:
    """Refuse what the operation cannot compute, naming the values that clash."""
    if x.ndim != 3 or x.shape[1] < 1:
        raise ValueError(f"timestep_norm needs x of shape [B, L, D] with L >= 1, got {list(x.shape)}")
    if x.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"timestep_norm needs x in float64, float32, bfloat16 or float16, got {x.dtype}")
    batch_size, length, dim = x.shape
    if num_groups < 1 or dim % num_groups:
        raise ValueError(f"num_groups must divide the feature dimension: {dim} features, num_groups={num_groups}")
    if betas is not None and not all(0 < beta < 1 for beta in betas):
        raise ValueError(f"betas must lie strictly between 0 and 1, got {betas}; None means cumulative statistics")
    expected = [("scale", scale, [dim]), ("bias", bias, [dim])]
    if state is not None:
        expected.append(("state.count", state.count, [batch_size]))
        expected.append(("state.mean", state.mean, [batch_size, num_groups]))
        expected.append(("state.variance", state.variance, [batch_size, num_groups]))
    if document_starts is not None:
        expected.append(("document_starts", document_starts, [batch_size, length]))
        if document_starts.dtype != torch.bool:
            raise ValueError(f"document_starts must be bool, got {document_starts.dtype}")
    for name, tensor, shape in expected:
        if list(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape} for x {list(x.shape)}, got {list(tensor.shape)}")


def _passes(backend: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward of a backend."""
    if backend == "torch":
        return timestep_norm_forward, timestep_norm_backward
    from gecko_lab.kernels.timestep_norm import triton  # imported where it is used: it need not be installed

    return triton.timestep_norm_forward, triton.timestep_norm_backward


@operation(
    "gecko_lab::timestep_norm",
    (
        "(Tensor x, Tensor scale, Tensor bias, Tensor count, Tensor mean, Tensor variance, Tensor? document_starts,"
        " int num_groups, float[]? betas, float eps, str backend)"
        " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _timestep_norm(
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    forward, _ = _passes(backend)
    return forward(x, scale, bias, count, mean, variance, document_starts, num_groups, betas, eps)


@_timestep_norm.register_fake
def _(x, scale, bias, count, mean, variance, document_starts, num_groups, betas, eps, backend):  # type: ignore[no-untyped-def]
    y, *state = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, count, mean, variance))
    weights = scale.new_empty(2, *x.shape[:2], dtype=torch.float64)
    per_timestep = [scale.new_empty(*x.shape[:2], num_groups) for _ in range(3)]
    return y, *state, weights, *per_timestep


@operation(
    "gecko_lab::timestep_norm_backward",
    (
        "(Tensor dy, Tensor dmean, Tensor dvariance, Tensor x, Tensor scale, Tensor count, Tensor mean,"
        " Tensor? document_starts, Tensor weights, Tensor timestep_mean, Tensor corrected_mean, Tensor rstd,"
        " float[]? betas, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
    ),
)
def _timestep_norm_backward(
    dy: Tensor,
    dmean: Tensor,
    dvariance: Tensor,
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
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    _, backward = _passes(backend)
    saved = weights, timestep_mean, corrected_mean, rstd
    return backward(dy, dmean, dvariance, x, scale, count, mean, document_starts, *saved, betas)


@_timestep_norm_backward.register_fake
def _(dy, dmean, dvariance, x, scale, count, mean, *_saved):  # type: ignore[no-untyped-def]
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    return dx, torch.empty_like(scale), torch.empty_like(scale), torch.empty_like(mean), torch.empty_like(mean)


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    x, scale, _, count, mean, _, document_starts, _, ctx.betas, _, ctx.backend = inputs
    ctx.save_for_backward(x, scale, count, mean, document_starts, *output[4:])


def _backward(ctx, dy, _dcount, dmean, dvariance, *_saved):  # type: ignore[no-untyped-def]
    dx, dscale, dbias, dinitial_mean, dinitial_variance = _timestep_norm_backward(
        dy, dmean, dvariance, *ctx.saved_tensors, ctx.betas, ctx.backend
    )
    return dx, dscale, dbias, None, dinitial_mean, dinitial_variance, None, None, None, None, None


_timestep_norm.register_autograd(_backward, setup_context=_setup_context)
