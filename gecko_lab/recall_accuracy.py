"""How many answers are right, in all and by the distance of what they ask for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

NUM_BINS = 40  # distances below 2⁴⁰


class RecallAccuracy(Metric):
    """Accuracy of answers over all batches and devices.

    Distances fall into bins from one power of two to the next: 0, 1, 2–3, 4–7, …

    Calling `compute` gives, each as a float64 scalar and only where anything was counted:

    - `loss`: cross-entropy, the mean over what it was given for;
    - `accuracy`: share of the answers that are right;
    - `exact_match`: share of the samples whose answers are all right;
    - `distances`: from the name of a bin, such as `0000064-0000127`, to the accuracy of its answers, nearest first.
    """

    full_state_update = False
    sums: Tensor
    right: Tensor
    asked: Tensor

    def __init__(self) -> None:
        super().__init__()
        # nats, targets that they are the sum over, samples all right, samples
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros(NUM_BINS, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("asked", torch.zeros(NUM_BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, losses: Tensor, right: Tensor, distances: Tensor) -> None:
        """Count a batch.

        Args:
            losses: nats, of any shape.
            right: bool `[B, L]`, whether the prediction is the target; read where there is an answer.
            distances: int64 `[B, L]`, −1 where there is no answer.
        """
        is_answer = distances >= 0
        all_right = (right | ~is_answer).all(dim=1)
        parts = (losses.double().sum(), losses.numel(), all_right.sum(), len(all_right))
        self.sums += torch.stack([torch.as_tensor(part, device=self.sums.device).double() for part in parts])
        # The exponent of a double is exact: 2^(e − 1) ≤ distance < 2^e, and 0 for 0.
        bins = torch.frexp(distances[is_answer].double()).exponent.long()
        self.asked += torch.bincount(bins, minlength=NUM_BINS)
        self.right += torch.bincount(bins[right[is_answer]], minlength=NUM_BINS)

    def compute(self) -> dict[str, Any]:
        """See the class."""
        nats, targets, all_right, samples = self.sums
        scores: dict[str, Any] = {"distances": {}}
        if targets > 0:
            scores["loss"] = nats / targets
        if samples > 0:
            scores["exact_match"] = all_right / samples
        if (total := self.asked.sum()) > 0:
            scores["accuracy"] = self.right.sum().double() / total
        for i in self.asked.nonzero().flatten().tolist():
            low, high = (1 << i) >> 1, max((1 << i) - 1, 0)
            scores["distances"][f"{low:07}-{high:07}"] = self.right[i].double() / self.asked[i]
        return scores
