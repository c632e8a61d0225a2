"""Timestep decay normalisation: Gecko's."""

from __future__ import annotations

from gecko_lab.components.timestep_norm.streamed import StreamedNorm


class TimestepDecayNorm(StreamedNorm):
    """Normalise by group statistics that decay along the document (Gecko, arXiv 2601.06463).

    Args:
        num_groups: groups that the features are normalised in; by default of 64 features.
        beta1: decay of the mean per timestep.
        beta2: decay of the variance per timestep.
        eps: added to the variance.
    """

    def __init__(
        self,
        model_dim: int,
        /,
        *,
        num_groups: int | None = None,
        beta1: float = 0.999,
        beta2: float = 0.9999,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(model_dim, num_groups, eps)
        if not (0 <= beta1 < 1 and 0 <= beta2 < 1):
            raise ValueError(f"TimestepDecayNorm: decays must lie in [0, 1), got beta1 = {beta1}, beta2 = {beta2}")
        self.betas = (beta1, beta2)

    def horizons(self) -> dict[str, float]:
        """The mean age that the weights `(1 − β) β^age` give, counted from 1: `1 / (1 − β)`."""
        assert self.betas is not None
        return {name: round(1 / (1 - beta), 6) for name, beta in zip(("mean", "variance"), self.betas, strict=True)}
