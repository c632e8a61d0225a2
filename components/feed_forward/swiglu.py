"""SwiGLU feed-forward."""

from __future__ import annotations

import torch
from torch import Tensor

from gecko_lab.components.linear import Linear
from gecko_lab.kernels.gated import gated
from gecko_lab.slots import FeedForward, Gate


class SwiGLU(FeedForward):
    """`W_2 (silu(W_1 x) ⊙ (W_3 x))` (arXiv 2002.05202)."""

    def __init__(self, model_dim: int, hidden_dim: int, dropout: float = 0.0, /) -> None:
        super().__init__()
        self.fc1 = Linear(model_dim, hidden_dim)
        self.fc2 = Linear(hidden_dim, model_dim)
        self.fc3 = Linear(model_dim, hidden_dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, L, D]` to `[B, L, D]`."""
        hidden = gated(self.fc1(x), self.fc3(x))
        return self.fc2(torch.dropout(hidden, self.dropout, self.training))

    def list_gates(self) -> dict[str, Gate]:
        """`silu(W_1 x)`."""
        return {"W_1": Gate(self.fc1, "silu")}

    def flops_per_token(self, length: int) -> float:
        """Three matrix products."""
        return 2 * 3 * self.fc1.weight.numel()
