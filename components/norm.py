"""Normalisation of one timestep over its features, in groups; weights are stored as offsets from one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gecko_lab.kernels.grouped_norm import grouped_norm


def check_groups(num_groups: int, features: int, what: str) -> int:
    """Return `num_groups` if it divides `features`; else raise a `ValueError` that names both."""
    if num_groups < 1 or features % num_groups:
        raise ValueError(f"{what}: {num_groups} groups do not divide {features} features")
    return num_groups


class GroupRMSNorm(nn.Module):
    """`y = x / √(mean_g(x²) + ε) ⊙ (1 + w)` (arXiv 1910.07467), statistics in at least float32.

    Args:
        num_features: `D`.
        num_groups: groups that the features are normalised in.
        eps: ε.
        affine: whether there is a weight.
    """

    def __init__(self, num_features: int, *, num_groups: int = 1, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_groups = check_groups(num_groups, num_features, "RMS norm")
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(num_features)) if affine else None

    def reset_parameters(self) -> None:
        """Factor one."""
        if self.weight is not None:
            nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`, dtype kept."""
        return grouped_norm(x, self.weight, num_groups=self.num_groups, centred=False, eps=self.eps)


class GroupLayerNorm(nn.Module):
    """`y = (x − mean_g) / √(var_g + ε) ⊙ (1 + w) + b` (arXiv 1607.06450), statistics in at least float32.

    Args:
        num_features: `D`.
        num_groups: groups that the features are normalised in.
        eps: ε.
        affine: whether there are a weight and a bias.
    """

    def __init__(self, num_features: int, *, num_groups: int = 1, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.num_groups = check_groups(num_groups, num_features, "layer norm")
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None

    def reset_parameters(self) -> None:
        """Factor one, bias zero."""
        for parameter in self.parameters(recurse=False):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` to `[..., D]`, dtype kept."""
        return grouped_norm(x, self.weight, self.bias, num_groups=self.num_groups, centred=True, eps=self.eps)
