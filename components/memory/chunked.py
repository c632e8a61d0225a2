"""What the memories that are written once per chunk share."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from gecko_lab.kernels.working_memory import WorkingMemoryState, working_memory
from gecko_lab.slots import Memory
from gecko_lab.state import Segments


class ChunkedMemory(Memory):
    """A matrix `M` `[F, V]` per head, read by `softmax(q) · M` and written when a chunk leaves the attention window.

    Where `capacity` is not 1, a learned map `[H, S, F]`, shared by queries and keys, gives the features.

    Args:
        capacity: features per head as a multiple of the key dim, through a learned map; 1 is the paper's, without map.
    """

    decayed = ("feature_map",)

    @property
    @abstractmethod
    def delta_rule(self) -> bool:
        """Whether writes leave out what the memory predicts already."""

    def __init__(
        self, num_heads: int, key_dim: int, value_dim: int, chunk_size: int, /, *, capacity: float = 1.0
    ) -> None:
        super().__init__()
        features = capacity * key_dim
        if features < 1 or features != int(features):
            raise ValueError(
                f"{type(self).__name__}: capacity {capacity:g} of a key dim of {key_dim} gives {features:g} features; "
                f"it must give a whole number of at least one (to have no memory, set memory: null)"
            )
        self.num_heads, self.key_dim, self.value_dim = num_heads, key_dim, value_dim
        self.chunk_size, self.num_features = chunk_size, int(features)
        mapped = self.num_features != key_dim
        self.feature_map = nn.Parameter(torch.empty(num_heads, key_dim, self.num_features)) if mapped else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Features start with the scale of the queries and keys."""
        if self.feature_map is not None:
            nn.init.normal_(self.feature_map, std=1 / math.sqrt(self.key_dim))

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        state: WorkingMemoryState | None = None,
        segments: Segments | None = None,
    ) -> tuple[Tensor, WorkingMemoryState]:
        """`q`, `k` `[B, L, H, S]` and `v` `[B, L, H, V]` to `[B, L, H, V]`."""
        if self.feature_map is not None:
            feature_map = self.feature_map.to(q.dtype)
            q, k = (torch.einsum("blhs,hsf->blhf", x, feature_map) for x in (q, k))
        ids = None if segments is None else segments.ids
        return working_memory(q, k, v, state, ids, chunk_size=self.chunk_size, delta_rule=self.delta_rule)

    def flops_per_token(self, length: int) -> float:
        """The read, and the write in its chunk-by-chunk form: what the memory predicts, and what is added."""
        features, values, heads = self.num_features, self.value_dim, self.num_heads
        mapping = 0 if self.feature_map is None else 2 * 2 * self.key_dim * features
        products = 3 if self.delta_rule else 2
        return heads * (mapping + products * 2 * features * values)

    def state_bytes(self, length: int, itemsize: int) -> int:
        """Two memories and a chunk's sums `K̃V`, their normalisers, `K̃Q̃` for the delta rule; documents' numbers."""
        features, values = self.num_features, self.value_dim
        products = features * features if self.delta_rule else 0
        return self.num_heads * (3 * features * (values + 1) + products) * 4 + 3 * 8
