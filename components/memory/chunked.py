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
        q, k = self._features(q), self._features(k)
        ids = None if segments is None else segments.ids
        return working_memory(q, k, v, state, ids, chunk_size=self.chunk_size, delta_rule=self.delta_rule)

    def _features(self, x: Tensor) -> Tensor:
        """Queries or keys `[B, L, H, S]` to `[B, L, H, F]`."""
        if self.feature_map is None:
            return x
        return torch.einsum("blhs,hsf->blhf", x, self.feature_map.to(x.dtype))

    @torch.no_grad()
    def write_ratios(
        self, k: Tensor, state: WorkingMemoryState | None = None, segments: Segments | None = None
    ) -> Tensor:
        """`ρ = exp(ℓ_j − ℓ')` of every chunk that ends in `k` `[B, L, H, S]`."""
        k = self._features(k)
        if state is None:
            state = WorkingMemoryState.empty(k, k)
        log_norm, document = state.next_log_norm, state.next_document
        running, running_document = state.running_log_norm, state.running_document
        ids = state.current_document()[:, None].expand(k.shape[:2]) if segments is None else segments.ids
        ratios = [log_norm.new_empty(k.shape[0], 0, *k.shape[2:])]
        start = 0
        while (stop := start + self.chunk_size - (state.position + start) % self.chunk_size) <= k.shape[1]:
            last = ids[:, stop - 1]
            others = (ids[:, start:stop] != last[:, None])[:, :, None, None]
            piece = k[:, start:stop].to(log_norm.dtype).masked_fill(others, -torch.inf).logsumexp(dim=1)  # [B, H, F]
            chunk = torch.logaddexp(_of(running, running_document == last), piece)
            before = _of(log_norm, document == last)
            log_norm, document = torch.logaddexp(before, chunk), last
            ratios.append((chunk - log_norm).exp().masked_fill(before == -torch.inf, torch.nan)[:, None])
            running = torch.full_like(running, -torch.inf)
            start = stop
        return torch.cat(ratios, dim=1)

    def contents(self, state: WorkingMemoryState) -> Tensor:
        """What the next chunk will read."""
        return state.next_memory

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


def _of(log_norm: Tensor, same: Tensor) -> Tensor:
    """Log-normalisers `[B, H, F]`, empty in the rows where `same` `[B]` is false."""
    return log_norm.masked_fill(~same[:, None, None], -torch.inf)
