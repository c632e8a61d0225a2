"""What the real and the complex moving average share."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from gecko_lab.kernels.cema import cema
from gecko_lab.slots import MovingAverage, Spectrum
from gecko_lab.state import Segments, at_least_float32


class DampedEMA(MovingAverage):
    """`h_t = q ⊙ h_{t−1} + p x_t`, `y_t = Re Σ_n γ_n h_{t,n} + ω ⊙ x_t`, with `p = σ(α)` and `|q| = 1 − p σ(δ)`.

    Parameters `α`, `δ` `[D, N]`, `γ` `[D, N, parts]` (real and imaginary), `ω` `[D]` where the skip is learned.
    """

    parts: int  # 2 for complex states, 1 for real ones
    flops_per_state: int  # of one state's update and read-out

    @abstractmethod
    def __init__(self, model_dim: int, num_dims: int, learned_skip: bool, scaled: bool) -> None:
        super().__init__()
        if num_dims < 1:
            raise ValueError(f"{type(self).__name__}: num_dims must be at least 1, got {num_dims}")
        self.model_dim, self.num_dims, self.scaled = model_dim, num_dims, scaled
        self.alpha = nn.Parameter(torch.empty(model_dim, num_dims))
        self.delta = nn.Parameter(torch.empty(model_dim, num_dims))
        self.gamma = nn.Parameter(torch.empty(model_dim, num_dims, self.parts))
        self.omega = nn.Parameter(torch.empty(model_dim)) if learned_skip else None

    def reset_parameters(self) -> None:
        """Draw as the authors do: `Re γ ~ N(0, 1/N)`, or `N(0, 1)` where the forward pass scales it."""
        nn.init.normal_(self.alpha, std=0.2)
        nn.init.normal_(self.delta, std=0.2)
        nn.init.normal_(self.gamma, std=1.0 if self.scaled else math.sqrt(1 / self.num_dims))
        with torch.no_grad():
            self.gamma[..., 1:] = 0.0
        if self.omega is not None:
            nn.init.trunc_normal_(self.omega, std=0.25, a=-1.0, b=1.0)

    def phase(self) -> Tensor | None:
        """Angles `[D, N]` of `q`; none for real states."""
        return None

    def forward(
        self, x: Tensor, state: Tensor | None = None, segments: Segments | None = None
    ) -> tuple[Tensor, Tensor]:
        """`x` `[B, L, D]` to `[B, L, D]`; the state is `h` `[B, D, N, parts]` in float32 or better."""
        wide = at_least_float32(self.alpha.dtype)
        p = self.alpha.to(wide).sigmoid()
        gamma = self.gamma.to(wide) * (math.sqrt(1 / self.num_dims) if self.scaled else 1.0)
        starts = None if segments is None else segments.starts
        y, state = cema(x, p, 1 - p * self.delta.to(wide).sigmoid(), self.phase(), gamma, state, starts)
        return y + (x if self.omega is None else x * self.omega.to(x.dtype)), state

    @torch.no_grad()
    def spectrum(self) -> Spectrum:
        """Power: the energy of each state's impulse response `Re(γ q^t) p`, times 1/N where the read-out is scaled."""
        wide = at_least_float32(self.alpha.dtype)
        p = self.alpha.to(wide).sigmoid()
        forgotten = p * self.delta.to(wide).sigmoid()
        angle = self.phase()
        energy = self.gamma.to(wide).square().sum(-1) / (forgotten * (2 - forgotten))  # |γ|² / (1 − |q|²)
        if angle is not None:
            gamma, q = torch.view_as_complex(self.gamma.to(wide)), torch.polar(1 - forgotten, angle)
            energy = (energy + (gamma.square() / (1 - q.square())).real) / 2
        return Spectrum(forgotten, angle, p.square() * energy / (self.num_dims if self.scaled else 1))

    def flops_per_token(self, length: int) -> float:
        """The recurrence's, one state at a time."""
        return self.flops_per_state * self.num_dims * self.model_dim

    def state_bytes(self, length: int, itemsize: int) -> int:
        """`h` in float32."""
        return self.model_dim * self.num_dims * self.parts * 4
