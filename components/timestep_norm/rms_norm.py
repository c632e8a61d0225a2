"""RMS normalisation in the place of a timestep norm."""

from __future__ import annotations

from torch import Tensor

from gecko_lab.components.norm import GroupRMSNorm
from gecko_lab.slots import TimestepNormalization
from gecko_lab.state import Segments


class RMSNorm(TimestepNormalization):
    """Normalise each timestep by its own root mean square: no statistics along the stream (arXiv 1910.07467).

    Args:
        num_groups: groups that the features are normalised in.
        eps: added to the mean square.
    """

    def __init__(self, model_dim: int, /, *, num_groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm = GroupRMSNorm(model_dim, num_groups=num_groups, eps=eps)

    def forward(self, x: Tensor, state: None = None, segments: Segments | None = None) -> tuple[Tensor, None]:
        """`x` `[B, L, D]` to `[B, L, D]`; there is no state."""
        return self.norm(x), None
