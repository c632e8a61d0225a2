"""Complex exponential moving average."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gecko_lab.components.moving_average.damped import DampedEMA
from gecko_lab.state import at_least_float32


class ComplexEMA(DampedEMA):
    """Exponential moving average with complex states that rotate: `q = |q| e^{iφ}` (CEMA).

    `φ_n = n · (2π / N) · σ(θ)`. Gecko (arXiv 2601.06463) adds `x` itself; Megalodon (arXiv 2404.08801) learns the skip
    and scales the read-out.

    Args:
        num_dims: states per channel.
        learned_skip: weight the skip by a learned ω per channel instead of by one.
        scaled: multiply the read-out γ by √(1 / num_dims).
    """

    parts = 2
    flops_per_state = 12  # a complex multiply (6), the input (2), the real part of a complex product, summed (4)

    def __init__(
        self, model_dim: int, /, *, num_dims: int = 16, learned_skip: bool = False, scaled: bool = False
    ) -> None:
        super().__init__(model_dim, num_dims, learned_skip, scaled)
        self.theta = nn.Parameter(torch.empty(model_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw as the authors do: `σ(θ)` spreads as `exp(−j ln D / D)`, `j = 1 … D`, in a random order."""
        super().reset_parameters()
        order = torch.randperm(self.model_dim, device=self.theta.device)
        spread = torch.exp((order + 1) * (-math.log(self.model_dim) / self.model_dim))
        with torch.no_grad():
            self.theta.copy_(torch.logit(spread))

    def phase(self) -> Tensor:
        """Angles `[D, N]` of `q`, in radians."""
        theta = self.theta.to(at_least_float32(self.theta.dtype))
        wavelets = torch.arange(1, self.num_dims + 1, device=theta.device, dtype=theta.dtype)
        return wavelets * (2 * math.pi / self.num_dims) * theta.sigmoid()[:, None]
