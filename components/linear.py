"""The linear map with the authors' initialisation."""

from __future__ import annotations

import math

from torch import nn


class Linear(nn.Linear):
    """`y = x Wᵀ + b`; `W ~ N(0, 1 / (3 · fan_in))`, `b = 0` (Gecko's `init_mode: he`: Kaiming normal with a = √5)."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        """Draw the weights anew."""
        nn.init.kaiming_normal_(self.weight, a=math.sqrt(5.0))
        if self.bias is not None:
            nn.init.zeros_(self.bias)
