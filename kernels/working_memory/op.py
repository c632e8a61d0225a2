"""The public operation: checks its arguments and chooses the backend."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gecko_lab.kernels.backends import choose_backend

from . import reference, stream
from .chunk_products import without_autocast
from .state import WorkingMemoryState

Backend = Literal["auto", "triton", "torch", "reference"]

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

MAX_TRITON_KEY_DIM = 512
"""Beyond it the kernels' tiles, which hold all features of a timestep, do not fit."""


def working_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: WorkingMemoryState | None = None,
    segments: Tensor | None = None,
    *,
    chunk_size: int,
    delta_rule: bool = True,
    backend: Backend = "auto",
) -> tuple[Tensor, WorkingMemoryState]:
    """Read a memory of everything that the sliding window has left behind, and write to it once per chunk.

        read:          y_t = softmax_S(q_t) M                     while chunk c is read, M holds chunks 0 .. c-2
        write chunk j: l_j = logsumexp_time(K), l' = logaddexp(l, l_j), rho = exp(l_j - l')
                       M'  = M + rho (softmax_time(K)^T (V - softmax_S(K) M) - M)

    Gecko, arXiv 2601.06463 (adaptive working memory). Of a chunk only the timesteps of its last document are written; a
    memory that holds another document is cleared first; a query whose document the memory does not hold reads zero.

    Args:
        q: queries [B, L, H, S]; float64, float32, bfloat16 or float16.
        k: keys [B, L, H, S].
        v: values [B, L, H, V].
        state: what an earlier call returned; None where the stream begins. Gradients flow through it.
        segments: document numbers in the stream [B, L] int64, >= 0, non-decreasing, continuing the state's. None: the
            document read last goes on (all zeros in a stream without documents).
        chunk_size: timesteps of a chunk; chunks are counted from the stream's first timestep.
        delta_rule: False writes M' = M + rho (softmax_time(K)^T V - M): nothing is subtracted for what the memory
            already predicts.
        backend: "triton" (on a GPU, S up to 512, not float64), "torch" (vectorised), "reference" (chunk by chunk), or
            "auto": the first of triton and torch that can, but torch for a single timestep.

    Returns:
        y [B, L, H, V] in the dtype of v, and the state after the last timestep (float32 or better).

    Raises:
        ValueError: a backend that is unknown or cannot run here; shapes, dtypes or a state that do not fit together.
    """
    _check(q, k, v, state, segments, chunk_size, delta_rule)
    chosen = _choose(backend, q, k, v)
    with without_autocast(q.device):
        if chosen == "reference":
            return reference.working_memory(q, k, v, state, segments, chunk_size=chunk_size, delta_rule=delta_rule)
        return stream.working_memory(
            q, k, v, state, segments, chunk_size=chunk_size, delta_rule=delta_rule, backend=chosen
        )


def _choose(backend: str, q: Tensor, k: Tensor, v: Tensor) -> str:
    """The backend to call; a product over one timestep is no work for tensor cores."""
    key_dim = q.shape[3]
    backends = ["triton", "torch", "reference"]
    if backend == "auto" and (q.shape[1] == 1 or key_dim > MAX_TRITON_KEY_DIM):
        backends.remove("triton")
    widest = next((x for x in (q, k, v) if x.dtype == torch.float64), v)
    chosen = choose_backend("working_memory", backend, backends, widest)
    if chosen == "triton" and key_dim > MAX_TRITON_KEY_DIM:
        raise ValueError(
            f"working_memory: the backend triton takes up to {MAX_TRITON_KEY_DIM} keys a head, got {key_dim}; "
            f"choose the backend torch"
        )
    return chosen


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: WorkingMemoryState | None,
    segments: Tensor | None,
    chunk_size: int,
    delta_rule: bool,
) -> None:
    shapes = f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
    if q.dim() != 4 or v.dim() != 4 or k.shape != q.shape or v.shape[:3] != q.shape[:3]:
        raise ValueError(f"working_memory takes q and k [B, L, H, S] and v [B, L, H, V], got {shapes}")
    if q.shape[1] < 1:
        raise ValueError(f"working_memory reads at least one timestep, got {shapes}")
    if not all(x.dtype in _DTYPES for x in (q, k, v)):
        raise ValueError(
            f"working_memory takes floating-point tensors (float64, float32, bfloat16, float16), "
            f"got q {q.dtype}, k {k.dtype}, v {v.dtype}"
        )
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if segments is not None and (segments.shape != q.shape[:2] or segments.dtype != torch.int64):
        raise ValueError(
            f"segments must be [B, L] = {list(q.shape[:2])} int64, got {list(segments.shape)} {segments.dtype}"
        )
    if state is not None:
        batch, _, heads, key_dim = q.shape
        expected = (batch, heads, key_dim, v.shape[-1])
        if state.memory.shape != expected:
            raise ValueError(
                f"the state's memory must be {list(expected)} for {shapes}, got {list(state.memory.shape)}"
            )
        if state.running_features.shape[-1] != (key_dim if delta_rule else 0):
            raise ValueError(f"the state was made with delta_rule={not delta_rule}, this call says {delta_rule}")
