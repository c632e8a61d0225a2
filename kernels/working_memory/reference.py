"""Adaptive working memory as the paper states it, chunk by chunk, one batch row at a time (arXiv 2601.06463).

Plain autograd, any float dtype (float32 arithmetic or better); used by the tests, not for speed. Documents are selected
by slicing, so what is left out never enters a computation.

Shape suffixes: T timesteps of a piece of one chunk, H heads, S key dim, V value dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .state import NO_DOCUMENT, WorkingMemoryState, compute_dtype


class _Memory(NamedTuple):
    matrix_HSV: Tensor
    log_norm_HS: Tensor
    document: int


class _Chunk(NamedTuple):
    """Sums over what has been read of the running chunk, of its last document only."""

    log_norm_HS: Tensor
    values_HSV: Tensor  # K~ V
    features_HSS: Tensor  # K~ Q~
    document: int


def working_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: WorkingMemoryState | None,
    segments: Tensor | None,
    *,
    chunk_size: int,
    delta_rule: bool,
) -> tuple[Tensor, WorkingMemoryState]:
    """See `op.working_memory`, which checks the arguments."""
    dtype = compute_dtype(q, k, v)
    if state is None:
        state = WorkingMemoryState.empty(q, v, delta_rule=delta_rule)
    if segments is None:
        segments = state.current_document()[:, None].expand(q.shape[:2])
    rows = []
    for row in range(q.shape[0]):
        q_HLS, k_HLS, v_HLV = (x[row].transpose(0, 1).to(dtype) for x in (q, k, v))
        start = _row_of(state, row, dtype)
        rows.append(_read_row(q_HLS, k_HLS, v_HLV, segments[row], *start, state.position, chunk_size, delta_rule))
    outputs, memories, next_memories, chunks = zip(*rows, strict=True)
    y = torch.stack(outputs).transpose(1, 2).to(v.dtype)

    def documents(parts: Sequence[_Memory | _Chunk]) -> Tensor:
        return torch.tensor([part.document for part in parts], device=q.device)

    return y, WorkingMemoryState(
        memory=torch.stack([x.matrix_HSV for x in memories]),
        log_norm=torch.stack([x.log_norm_HS for x in memories]),
        document=documents(memories),
        next_memory=torch.stack([x.matrix_HSV for x in next_memories]),
        next_log_norm=torch.stack([x.log_norm_HS for x in next_memories]),
        next_document=documents(next_memories),
        running_log_norm=torch.stack([x.log_norm_HS for x in chunks]),
        running_values=torch.stack([x.values_HSV for x in chunks]),
        running_features=torch.stack([x.features_HSS for x in chunks]),
        running_document=documents(chunks),
        position=state.position + q.shape[1],
    )


def _row_of(state: WorkingMemoryState, row: int, dtype: torch.dtype) -> tuple[_Memory, _Memory, _Chunk]:
    def floats(x: Tensor) -> Tensor:
        return x[row].to(dtype)

    def document(x: Tensor) -> int:
        return int(x[row])

    return (
        _Memory(floats(state.memory), floats(state.log_norm), document(state.document)),
        _Memory(floats(state.next_memory), floats(state.next_log_norm), document(state.next_document)),
        _Chunk(
            floats(state.running_log_norm),
            floats(state.running_values),
            floats(state.running_features),
            document(state.running_document),
        ),
    )


def _read_row(
    q_HLS: Tensor,
    k_HLS: Tensor,
    v_HLV: Tensor,
    segments_L: Tensor,
    memory: _Memory,
    next_memory: _Memory,
    chunk: _Chunk,
    position: int,
    chunk_size: int,
    delta_rule: bool,
) -> tuple[Tensor, _Memory, _Memory, _Chunk]:
    length = segments_L.shape[0]
    outputs = []
    start = 0
    while start < length:
        stop = min(length, start + chunk_size - (position + start) % chunk_size)
        piece = slice(start, stop)
        outputs.append(_read(q_HLS[:, piece], segments_L[piece], memory))
        chunk = _accumulate(chunk, k_HLS[:, piece], v_HLV[:, piece], segments_L[piece], delta_rule)
        if (position + stop) % chunk_size == 0:
            memory, next_memory, chunk = next_memory, _write(next_memory, chunk, delta_rule), _empty(chunk)
        start = stop
    return torch.cat(outputs, dim=1), memory, next_memory, chunk


def _read(q_HTS: Tensor, segments_T: Tensor, memory: _Memory) -> Tensor:
    # Document numbers never fall, so that what the memory's document still has in this piece comes first.
    stop = int((segments_T == memory.document).sum())
    y_HTV = q_HTS[:, :stop].softmax(dim=-1) @ memory.matrix_HSV
    return F.pad(y_HTV, (0, 0, 0, q_HTS.shape[1] - stop))


def _accumulate(chunk: _Chunk, k_HTS: Tensor, v_HTV: Tensor, segments_T: Tensor, delta_rule: bool) -> _Chunk:
    last = int(segments_T[-1])
    if chunk.document != last:
        chunk = _empty(chunk)
    start = int((segments_T != last).sum())
    k_HTS, v_HTV = k_HTS[:, start:], v_HTV[:, start:]
    log_norm_HS = torch.logaddexp(chunk.log_norm_HS, k_HTS.logsumexp(dim=1))
    fading_HS1 = (chunk.log_norm_HS - log_norm_HS).exp().unsqueeze(-1)
    k_time_HST = (k_HTS - log_norm_HS.unsqueeze(1)).exp().mT
    values_HSV = fading_HS1 * chunk.values_HSV + k_time_HST @ v_HTV
    features_HSS = chunk.features_HSS
    if delta_rule:
        features_HSS = fading_HS1 * features_HSS + k_time_HST @ k_HTS.softmax(dim=-1)
    return _Chunk(log_norm_HS, values_HSV, features_HSS, last)


def _write(memory: _Memory, chunk: _Chunk, delta_rule: bool) -> _Memory:
    matrix_HSV, log_norm_HS = memory.matrix_HSV, memory.log_norm_HS
    if memory.document != chunk.document:
        matrix_HSV, log_norm_HS = torch.zeros_like(matrix_HSV), torch.full_like(log_norm_HS, -torch.inf)
    new_log_norm_HS = torch.logaddexp(log_norm_HS, chunk.log_norm_HS)
    rho_HS1 = (chunk.log_norm_HS - new_log_norm_HS).exp().unsqueeze(-1)
    innovation_HSV = chunk.values_HSV
    if delta_rule:
        innovation_HSV = innovation_HSV - chunk.features_HSS @ matrix_HSV
    return _Memory(matrix_HSV + rho_HS1 * (innovation_HSV - matrix_HSV), new_log_norm_HS, chunk.document)


def _empty(chunk: _Chunk) -> _Chunk:
    return _Chunk(
        torch.full_like(chunk.log_norm_HS, -torch.inf),
        torch.zeros_like(chunk.values_HSV),
        torch.zeros_like(chunk.features_HSS),
        NO_DOCUMENT,
    )
