"""Gates as the formula has them, in any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gated_reference(gate: Tensor, x: Tensor, addend: Tensor | None) -> Tensor:
    """See `gecko_lab.kernels.gated.gated`."""
    dtype = torch.promote_types(gate.dtype, torch.float32)
    y = F.silu(gate.to(dtype)) * x.to(dtype)
    return (y if addend is None else y + addend.to(dtype)).to(gate.dtype)
