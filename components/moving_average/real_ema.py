"""Real exponential moving average."""

from __future__ import annotations

from gecko_lab.components.moving_average.damped import DampedEMA


class RealEMA(DampedEMA):
    """Damped exponential moving average with real states (Mega, arXiv 2209.10655): CEMA without rotation.

    Args:
        num_dims: states per channel.
        learned_skip: weight the skip by a learned ω per channel instead of by one.
        scaled: multiply the read-out γ by √(1 / num_dims).
    """

    parts = 1
    flops_per_state = 5  # decay, input and their sum (3), a product, summed (2)

    def __init__(
        self, model_dim: int, /, *, num_dims: int = 16, learned_skip: bool = False, scaled: bool = False
    ) -> None:
        super().__init__(model_dim, num_dims, learned_skip, scaled)
        self.reset_parameters()
