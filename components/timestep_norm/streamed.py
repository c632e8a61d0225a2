"""What the timestep normalisations with statistics along the stream share."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from gecko_lab.components.norm import check_groups
from gecko_lab.kernels.timestep_norm import TimestepStatistics, timestep_norm
from gecko_lab.slots import TimestepNormalization
from gecko_lab.state import Segments


def default_num_groups(model_dim: int) -> int:
    """The most groups of at least 64 features each that divide `model_dim` (4,096 features: the authors' 64)."""
    return next(groups for groups in range(max(model_dim // 64, 1), 0, -1) if model_dim % groups == 0)


class StreamedNorm(TimestepNormalization):
    """`y_t = (x_t − μ̂_t) / √(σ̂²_t + ε) ⊙ (1 + w) + b` with group statistics of everything read so far."""

    betas: tuple[float, float] | None  # decays of mean and variance; none: cumulative

    @abstractmethod
    def __init__(self, model_dim: int, num_groups: int | None, eps: float) -> None:
        super().__init__()
        if num_groups is None:
            num_groups = default_num_groups(model_dim)
        self.num_groups = check_groups(num_groups, model_dim, type(self).__name__)
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(model_dim))
        self.bias = nn.Parameter(torch.zeros(model_dim))

    def reset_parameters(self) -> None:
        """Factor one, bias zero."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(
        self, x: Tensor, state: TimestepStatistics | None = None, segments: Segments | None = None
    ) -> tuple[Tensor, TimestepStatistics]:
        """`x` `[B, L, D]` to `[B, L, D]`; the state is `(n [B], μ [B, G], σ² [B, G])`, uncorrected."""
        return timestep_norm(
            x,
            1 + self.weight,
            self.bias,
            state,
            None if segments is None else segments.starts,
            num_groups=self.num_groups,
            betas=self.betas,
            eps=self.eps,
        )

    def state_bytes(self, length: int, itemsize: int) -> int:
        """A count and the statistics of each group, in float32."""
        return 8 + 2 * self.num_groups * 4
