"""Timestep normalisation in vectorised PyTorch, with a backward pass written by hand.

Shapes: B batch, L length, D features, G groups, K = D / G features of a group, N = B L timesteps of all rows.

Only the moments and the normalisation touch `[B, L, D]`. They run over pieces of timesteps that fit the processor's
cache, so each tensor passes once through memory per function however many operations a piece takes.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gecko_lab.kernels.timestep_norm.scan import segmented_scan, segmented_scan_backward
from gecko_lab.kernels.timestep_norm.statistics import statistics_dtype, timestep_counts

CACHED_ELEMENTS = 1 << 19
"""Elements of one piece on CPU: 2 MiB in float32. Smaller ones cost calls, larger ones trips to memory."""


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
    """Normalise `x` by its document's statistics so far.

    Args:
        x: `[B, L, D]` float64, float32, bfloat16 or float16.
        scale, bias: `[D]`, float64 or float32: `statistics_dtype(x.dtype)`.
        count, mean, variance: The incoming state, `[B]` int64, `[B, G]` and `[B, G]` in the dtype of `scale`.
        document_starts: `[B, L]` bool or None.
        num_groups, betas, eps: As in `timestep_norm`.

    Returns:
        `y` `[B, L, D]` in the dtype of `x`; the outgoing count, mean and variance; and for the backward pass
        `1 / (1 - beta^n)` for mean and variance or `1 / n` twice, `[2, B, L]` float64, the mean of each group at each
        timestep, the corrected running mean and `1 / sqrt(corrected variance + eps)`, `[B, L, G]` in the dtype of
        `scale`.
    """
    x = x.contiguous()
    timestep_mean, timestep_variance = _group_moments(x, num_groups)
    counts = timestep_counts(count, document_starts, x.shape[1])
    moments = timestep_mean.double(), timestep_variance.double()
    weights = _weights(counts, betas)
    means, variances = _running_statistics(*moments, mean.double(), variance.double(), weights, document_starts, betas)
    corrected_mean, corrected_variance = means, variances
    if betas is not None:
        corrected_mean = means * weights[0, :, :, None]
        corrected_variance = variances * weights[1, :, :, None]
    dtype = statistics_dtype(x.dtype)
    corrected_mean = corrected_mean.to(dtype).contiguous()
    rstd = corrected_variance.to(dtype).add(eps).rsqrt_().contiguous()
    y = _normalise(x, corrected_mean, rstd, scale, bias)
    final_mean, final_variance = means[:, -1].to(dtype, copy=True), variances[:, -1].to(dtype, copy=True)
    return y, counts[:, -1].clone(), final_mean, final_variance, weights, timestep_mean, corrected_mean, rstd


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
    """Gradients of `timestep_norm_forward`; see README.md for the derivation.

    Args:
        dy: `[B, L, D]` in the dtype of `x`.
        dfinal_mean, dfinal_variance: Gradients of the outgoing state, `[B, G]`.
        x, scale, count, mean, document_starts, betas: Inputs of the forward pass.
        weights, timestep_mean, corrected_mean, rstd: Saved by the forward pass, `[2, B, L]` and `[B, L, G]`.

    Returns:
        Gradients of `x`, `scale`, `bias`, and of the incoming mean and variance.
    """
    x, dy = x.contiguous(), dy.contiguous()
    group_size = x.shape[2] // rstd.shape[2]
    dscale, dbias, sum_dnorm, sum_dnorm_norm = _reduce_gradients(dy, x, corrected_mean, rstd, scale)

    dmean = sum_dnorm.mul_(rstd).double().neg_()
    dvariance = sum_dnorm_norm.mul_(rstd).mul_(rstd).double().mul_(-0.5)
    dfinal_mean, dfinal_variance = dfinal_mean.double(), dfinal_variance.double()
    if betas is not None:
        gradients = torch.cat([dmean, dvariance]).mul_(weights.flatten(0, 1)[:, :, None])
        decay, starts = _of_both(betas, weights, document_starts)
        totals, initial = segmented_scan_backward(gradients, decay, starts, torch.cat([dfinal_mean, dfinal_variance]))
        dtimestep_mean, dtimestep_variance = totals.mul_(1 - decay[:, :, None]).chunk(2)
        dinitial_mean, dinitial_variance = initial.chunk(2)
    else:
        weight = weights[0, :, :, None]
        past = 1 - weight
        decay = past[:, :, 0]
        dvariance, dinitial_variance = segmented_scan_backward(dvariance, decay, document_starts, dfinal_variance)
        dtimestep_variance = dvariance.mul_(weight)
        delta = _deviation(timestep_mean.double(), corrected_mean.double(), mean.double(), document_starts)
        ddelta = delta.mul_(2 * past).mul_(dtimestep_variance)
        # delta_{t+1} holds -mu_t, unless a document begins at t + 1.
        through_delta = ddelta if document_starts is None else ddelta.masked_fill(document_starts[:, :, None], 0.0)
        dmean[:, :-1] -= through_delta[:, 1:]
        dmean, dinitial_mean = segmented_scan_backward(dmean, decay, document_starts, dfinal_mean)
        dinitial_mean = dinitial_mean - through_delta[:, 0]
        dtimestep_mean = dmean.mul_(weight).add_(ddelta)

    dtype = statistics_dtype(x.dtype)
    slope = dtimestep_variance.to(dtype).mul_(2 / group_size)
    offset = dtimestep_mean.to(dtype).div_(group_size).addcmul_(slope, timestep_mean, value=-1)
    dx = _input_gradient(dy, x, rstd, scale, offset, slope)
    return dx, dscale, dbias, dinitial_mean.to(dtype, copy=True), dinitial_variance.to(dtype, copy=True)


def _running_statistics(
    timestep_mean: Tensor,
    timestep_variance: Tensor,
    mean: Tensor,
    variance: Tensor,
    weights: Tensor,
    document_starts: Tensor | None,
    betas: Sequence[float] | None,
) -> tuple[Tensor, Tensor]:
    """Uncorrected running means and variances at every timestep, `[B, L, G]` float64.

    In float64 because they are small beside `x` and because millions of updates with weight `1/n` add up: float32
    rounds them only where a state leaves the operation.
    """
    if betas is not None:
        decay, starts = _of_both(betas, weights, document_starts)
        increments = torch.cat([timestep_mean, timestep_variance]).mul_(1 - decay[:, :, None])
        means, variances = segmented_scan(increments, decay, starts, torch.cat([mean, variance])).chunk(2)
        return means, variances
    weight = weights[0]
    past = 1 - weight
    means = segmented_scan(timestep_mean * weight[:, :, None], past, document_starts, mean)
    delta = _deviation(timestep_mean, means, mean, document_starts)
    increments = delta.square_().mul_(past[:, :, None]).add_(timestep_variance).mul_(weight[:, :, None])
    return means, segmented_scan(increments, past, document_starts, variance)


def _of_both(betas: Sequence[float], weights: Tensor, document_starts: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Decays `[2B, L]` and document starts of means and variances below each other, for one scan over both."""
    decay = weights.new_tensor(betas).repeat_interleave(weights.shape[1])[:, None].expand(-1, weights.shape[2])
    return decay, None if document_starts is None else document_starts.repeat(2, 1)


def _deviation(timestep_mean: Tensor, means: Tensor, mean: Tensor, document_starts: Tensor | None) -> Tensor:
    """`mean_g(x_t) - mu_{t-1}`, with nothing before a document's first timestep, `[B, L, G]`, a new tensor."""
    before = torch.cat([mean[:, None], means[:, :-1]], dim=1)
    if document_starts is not None:
        before.masked_fill_(document_starts[:, :, None], 0.0)
    return torch.sub(timestep_mean, before, out=before)


def _weights(counts: Tensor, betas: Sequence[float] | None) -> Tensor:
    """`1 / (1 - beta^n)` for mean and variance, exact for tiny and for huge `n`, or `1 / n`; `[2, B, L]` float64."""
    n = counts.double()
    if betas is None:
        return n.reciprocal().expand(2, -1, -1).contiguous()
    return torch.stack([torch.expm1(n * math.log(beta)).neg_().reciprocal_() for beta in betas])


def _pieces(x: Tensor) -> Iterator[slice]:
    """Ranges of the `N` timesteps of `[N, D]`: one on an accelerator, else as many as keep each in cache."""
    num_timesteps, dim = x.shape
    size = max(1, CACHED_ELEMENTS // dim) if x.device.type == "cpu" else num_timesteps
    return (slice(start, min(start + size, num_timesteps)) for start in range(0, num_timesteps, size))


def _group_moments(x: Tensor, num_groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each group at each timestep, `[B, L, G]`: two passes over each cached piece.

    `torch.var_mean` takes about ten times as long on CPU, the rows being short.
    """
    batch_size, length, dim = x.shape
    group_size = dim // num_groups
    dtype = statistics_dtype(x.dtype)
    means = torch.empty(batch_size, length, num_groups, dtype=dtype, device=x.device)
    variances = torch.empty_like(means)
    flat_x, flat_means, flat_variances = x.flatten(0, 1), means.flatten(0, 1), variances.flatten(0, 1)
    for piece in _pieces(flat_x):
        values = flat_x[piece].to(dtype).unflatten(1, (num_groups, group_size))
        mean = torch.sum(values, dim=2, out=flat_means[piece]).div_(group_size)
        centred = values - mean[:, :, None]
        torch.sum(centred.mul_(centred), dim=2, out=flat_variances[piece])
    return means, variances.div_(group_size)


def _normalise(x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """`(x - mean) * rstd * scale + bias` in the dtype of `x`, rounded once."""
    flat_x, flat_mean, flat_rstd = x.flatten(0, 1), mean.flatten(0, 1)[:, :, None], rstd.flatten(0, 1)[:, :, None]
    y = torch.empty_like(flat_x)
    for piece in _pieces(flat_x):
        normalised = _normalised_piece(flat_x[piece].to(scale.dtype), flat_mean[piece], flat_rstd[piece])
        if y.dtype == scale.dtype:
            torch.addcmul(bias, scale, normalised, out=y[piece])
        else:
            y[piece] = torch.addcmul(bias, scale, normalised, out=normalised)
    return y.view_as(x)


def _normalised_piece(values: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """`(values - mean) * rstd`, a new tensor `[n, D]`: values `[n, D]`, the others `[n, G, 1]`."""
    grouped = values.unflatten(1, (mean.shape[1], -1))
    return (grouped - mean).mul_(rstd).flatten(1)


def _reduce_gradients(
    dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """With the normalised input `h` and its gradient `dh = dy * scale`: all sums that the backward pass needs.

    Returns:
        Gradients of scale and bias `[D]`; sums over each group of `dh` and of `dh * h`, `[B, L, G]`.
    """
    groups = (rstd.shape[2], -1)
    flat_x, flat_dy = x.flatten(0, 1), dy.flatten(0, 1)
    flat_mean, flat_rstd = mean.flatten(0, 1)[:, :, None], rstd.flatten(0, 1)[:, :, None]
    dscale, dbias = torch.zeros_like(scale), torch.zeros_like(scale)
    sums, products = torch.empty_like(rstd), torch.empty_like(rstd)
    flat_sums, flat_products = sums.flatten(0, 1), products.flatten(0, 1)
    for piece in _pieces(flat_x):
        gradient = flat_dy[piece].to(scale.dtype)
        product = _normalised_piece(flat_x[piece].to(scale.dtype), flat_mean[piece], flat_rstd[piece]).mul_(gradient)
        dscale += product.sum(0)
        dbias += gradient.sum(0)
        torch.sum(product.mul_(scale).unflatten(1, groups), dim=2, out=flat_products[piece])
        torch.mul(gradient, scale, out=product)
        torch.sum(product.unflatten(1, groups), dim=2, out=flat_sums[piece])
    return dscale, dbias, sums, products


def _input_gradient(dy: Tensor, x: Tensor, rstd: Tensor, scale: Tensor, offset: Tensor, slope: Tensor) -> Tensor:
    """`dy * scale * rstd + slope * x + offset`, `[B, L, D]` in the dtype of `x`."""
    groups = (rstd.shape[2], -1)
    flat_x, flat_dy = x.flatten(0, 1), dy.flatten(0, 1)
    rstd, offset, slope = (t.flatten(0, 1)[:, :, None] for t in (rstd, offset, slope))
    dx = torch.empty_like(flat_x)
    for piece in _pieces(flat_x):
        normalised_gradient = (flat_dy[piece].to(scale.dtype) * scale).unflatten(1, groups)
        gradient = flat_x[piece].to(scale.dtype).unflatten(1, groups) * slope[piece]
        gradient.addcmul_(normalised_gradient, rstd[piece])
        if dx.dtype == scale.dtype:
            torch.add(gradient, offset[piece], out=dx[piece].unflatten(1, groups))
        else:
            dx[piece] = gradient.add_(offset[piece]).flatten(1)
    return dx.view_as(x)
