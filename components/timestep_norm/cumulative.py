"""Cumulative timestep normalisation: Megalodon's."""

from __future__ import annotations

import math

from gecko_lab.components.timestep_norm.streamed import StreamedNorm


class TimestepNorm(StreamedNorm):
    """Normalise by the exact mean and variance of all that the document has shown (Megalodon, arXiv 2404.08801).

    Args:
        num_groups: groups that the features are normalised in; by default of 64 features.
        eps: added to the variance.
    """

    def __init__(self, model_dim: int, /, *, num_groups: int | None = None, eps: float = 1e-5) -> None:
        super().__init__(model_dim, num_groups, eps)
        self.betas = None

    def horizons(self) -> dict[str, float]:
        """Unlimited."""
        return {"mean": math.inf, "variance": math.inf}
