"""Timestep normalisation as a loop over time, in the order of the formulas (arXiv 2601.06463; arXiv 2404.08801)."""

import math

import torch
from torch import Tensor

from gecko_lab.kernels.timestep_norm.statistics import TimestepStatistics, statistics_dtype


def timestep_norm_reference(
    x: Tensor,
    scale: Tensor,
    bias: Tensor,
    state: TimestepStatistics,
    document_starts: Tensor | None,
    num_groups: int,
    betas: tuple[float, float] | None,
    eps: float,
) -> tuple[Tensor, TimestepStatistics]:
    """Normalise each timestep by the statistics of its document so far; differentiated by autograd.

    With `betas`, the decayed statistics of Gecko:

        mu_t      = beta1 mu_{t-1}      + (1 - beta1) mean_g(x_t)      mu^_t      = mu_t / (1 - beta1^n)
        sigma^2_t = beta2 sigma^2_{t-1} + (1 - beta2) var_g(x_t)       sigma^^2_t = sigma^2_t / (1 - beta2^n)

    without, the cumulative statistics of Megalodon over all elements seen, with `delta = mean_g(x_t) - mu_{t-1}`:

        mu_t      = mu_{t-1} + delta / n
        sigma^2_t = sigma^2_{t-1} + (var_g(x_t) + (1 - 1/n) delta^2 - sigma^2_{t-1}) / n

    and in both cases `y_t = (x_t - mu^_t) / sqrt(sigma^^2_t + eps) * scale + bias`.

    Args:
        x: `[B, L, D]`, any float dtype.
        scale: The full factor `1 + w`, `[D]`.
        bias: `[D]`.
        state: Statistics before the first timestep.
        document_starts: `[B, L]` bool, or None.
        num_groups: `G`, divides `D`.
        betas: Decay of mean and of variance, or None.
        eps: Added to the variance.

    Returns:
        `y`, `[B, L, D]` in the dtype of `x`, and the statistics after the last timestep.
    """
    batch_size, length, dim = x.shape
    dtype = statistics_dtype(x.dtype)
    grouped = x.to(dtype).view(batch_size, length, num_groups, dim // num_groups)
    count, mean, variance = state
    outputs = []
    for t in range(length):
        if document_starts is not None:
            start = document_starts[:, t]
            count = torch.where(start, 0, count)
            mean = torch.where(start[:, None], 0.0, mean)
            variance = torch.where(start[:, None], 0.0, variance)
        count = count + 1
        n = count[:, None].double()
        timestep_variance, timestep_mean = torch.var_mean(grouped[:, t], dim=-1, correction=0)
        if betas is None:
            delta = timestep_mean - mean
            past = (1 - 1 / n).to(dtype)
            variance = variance + (timestep_variance + past * delta**2 - variance) / n.to(dtype)
            mean = mean + delta / n.to(dtype)
            corrected_mean, corrected_variance = mean, variance
        else:
            beta1, beta2 = betas
            mean = beta1 * mean + (1 - beta1) * timestep_mean
            variance = beta2 * variance + (1 - beta2) * timestep_variance
            corrected_mean = mean / -torch.expm1(n * math.log(beta1)).to(dtype)
            corrected_variance = variance / -torch.expm1(n * math.log(beta2)).to(dtype)
        rstd = torch.rsqrt(corrected_variance + eps)
        normalised = (grouped[:, t] - corrected_mean[..., None]) * rstd[..., None]
        outputs.append(normalised.view(batch_size, dim) * scale.to(dtype) + bias.to(dtype))
    return torch.stack(outputs, dim=1).to(x.dtype), TimestepStatistics(count, mean, variance)
