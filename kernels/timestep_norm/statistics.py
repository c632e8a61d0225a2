"""The state of timestep normalisation and the timestep counts on which its weights depend."""

from typing import NamedTuple

import torch
from torch import Tensor


class TimestepStatistics(NamedTuple):
    """What has been seen of the running document: all that a later piece of the stream needs.

    Attributes:
        count: Timesteps since the document began, `[B]` int64.
        mean: Running mean of each group, before the correction `1 / (1 - beta1^count)`, `[B, G]`, float32, or float64
            when the activations are.
        variance: Running variance of each group, likewise uncorrected, `[B, G]`, same dtype.
    """

    count: Tensor  # type: ignore[assignment]  # the field's name is also a method of tuple
    mean: Tensor
    variance: Tensor

    @classmethod
    def empty(cls, batch_size: int, num_groups: int, dtype: torch.dtype, device: torch.device) -> "TimestepStatistics":
        """Statistics before a document's first timestep."""
        zeros = torch.zeros(2, batch_size, num_groups, dtype=dtype, device=device)
        return cls(torch.zeros(batch_size, dtype=torch.int64, device=device), zeros[0], zeros[1])


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of states, scales and saved statistics for activations of `dtype`: float64 or float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def timestep_counts(count: Tensor, document_starts: Tensor | None, length: int) -> Tensor:
    """Number of each timestep within its document, 1 at the document's first.

    Args:
        count: Timesteps of the running document before this piece, `[B]` int64.
        document_starts: `[B, L]` bool, or None when the running document goes on.
        length: `L`.

    Returns:
        `[B, L]` int64.
    """
    positions = torch.arange(1, length + 1, device=count.device)
    counts = count[:, None] + positions
    if document_starts is None:
        return counts
    latest_start = torch.where(document_starts, positions, 0).cummax(dim=1).values
    return torch.where(latest_start > 0, positions - latest_start + 1, counts)
