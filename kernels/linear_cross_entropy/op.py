"""Cross-entropy of a linear map without all of its logits in memory at once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

_ROWS = 4096
_LOGIT_BYTES_CPU = 32 << 20
"""Of PyTorch's pieces on a CPU: smaller ones add up the weight's gradient more often, larger ones are new memory."""


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    reduction: Literal["mean", "none"] = "mean",
    rows: int | None = None,
) -> Tensor:
    """`cross_entropy(hidden · weightᵀ, targets)`, `rows` tokens at a time.

    PyTorch's own chunked operation where the installed version has it; else pieces that are recomputed in the backward
    pass. Logits are in at least float32.

    Args:
        hidden: `[..., D]`.
        weight: `[num_classes, D]`.
        targets: int64 `[...]`.
        reduction: `mean`, or `none` for the loss of each token.
        rows: tokens of one piece, of which alone there are logits at any time; by default what is fast.

    Returns:
        A scalar, or `[...]`.
    """
    in_pieces = (  # with gradients that need no logits a second time
        reduction == "mean"
        and hidden.dtype == weight.dtype == torch.float32
        and hasattr(F, "linear_cross_entropy")
        and not torch.is_autocast_enabled(hidden.device.type)
    )
    if rows is None:
        cached = in_pieces and hidden.device.type == "cpu"
        rows = max(64, _LOGIT_BYTES_CPU // (4 * weight.shape[0])) if cached else _ROWS
    rows_ND, targets_N = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    if rows_ND.shape[0] <= rows:
        loss = _piece(rows_ND, weight, targets_N, reduction)
    elif in_pieces:
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
        loss = F.linear_cross_entropy(rows_ND, weight, targets_N, reduction="mean", options=options)
    else:
        pieces = [
            checkpoint(_piece, h, weight, t, "none", use_reentrant=False)
            for h, t in zip(rows_ND.split(rows), targets_N.split(rows), strict=True)
        ]
        loss = torch.cat(pieces)
        loss = loss.mean() if reduction == "mean" else loss
    return loss if reduction == "mean" else loss.view(targets.shape)


def _piece(hidden: Tensor, weight: Tensor, targets: Tensor, reduction: str) -> Tensor:
    logits = F.linear(hidden, weight)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, reduction=reduction)
