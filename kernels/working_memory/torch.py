"""Adaptive working memory, vectorised: what depends on one chunk only is computed for all chunks at once.

A write is affine in the memory, M' = A M + U, where A and U need only the chunk and the running log-normaliser. So
there are three steps (README.md derives them):

    sums  of every chunk, in parallel: l = logsumexp_time(K), K~ V, K~ Q~                  (`chunk_products.sums`)
    scan  over chunks, in sequence: M' = A M + U, A = exp(l_M - l') - rho K~ Q~, U = rho K~ V     (no time axis)
    read  of every chunk, in parallel: y = softmax_S(q) M                                  (`chunk_products.read`)

A call reads a head (what the running chunk still lacks), a body of whole chunks and a tail (a new running chunk).

Shape suffixes: B batch, N chunks, T timesteps of a chunk (or of a piece of one), H heads, S key dim, V value dim,
F features (S for the delta rule, 0 without).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import chunk_products
from .state import NO_DOCUMENT, WorkingMemoryState, compute_dtype


class _Memory(NamedTuple):
    matrix_BHSV: Tensor
    log_norm_BHS: Tensor
    document_B: Tensor


class _Chunks(NamedTuple):
    """Sums over every chunk's last document: logsumexp_time(K), K~ V, K~ Q~."""

    log_norm_BNHS: Tensor
    values_BNHSV: Tensor
    features_BNHSF: Tensor
    document_BN: Tensor


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
    memory = _Memory(state.memory.to(dtype), state.log_norm.to(dtype), state.document)
    next_memory = _Memory(state.next_memory.to(dtype), state.next_log_norm.to(dtype), state.next_document)
    running = _Chunks(
        state.running_log_norm.to(dtype).unsqueeze(1),
        state.running_values.to(dtype).unsqueeze(1),
        state.running_features.to(dtype).unsqueeze(1),
        state.running_document.unsqueeze(1),
    )
    current_B = state.current_document()

    length = q.shape[1]
    offset = state.position % chunk_size
    head = min(length, (chunk_size - offset) % chunk_size)
    tail = (length - head) % chunk_size
    outputs = []
    for start, stop in ((0, head), (head, length - tail), (length - tail, length)):
        if start == stop:
            continue
        timesteps = min(stop - start, chunk_size)
        q_BNTHS, k_BNTHS, v_BNTHV = (x[:, start:stop].unflatten(1, (-1, timesteps)) for x in (q, k, v))
        num_chunks = q_BNTHS.shape[1]
        segments_BNT = keep_BNT = None
        last_BN = current_B[:, None].expand(-1, num_chunks)
        if segments is not None:
            segments_BNT = segments[:, start:stop].unflatten(1, (-1, timesteps))
            last_BN = segments_BNT[:, :, -1].clone()  # not a view: the state must not keep all segments alive
            keep_BNT = segments_BNT == last_BN[:, :, None]

        log_norm, values, features = chunk_products.sums(k_BNTHS, v_BNTHV, keep_BNT, delta_rule, dtype)
        chunks = _Chunks(log_norm, values, features, last_BN)
        if offset:
            chunks = _join(running, chunks)
        offset = (offset + stop - start) % chunk_size
        written = [] if offset else _scan(next_memory, chunks)
        running = chunks if offset else _empty(chunks)
        memories = [memory, next_memory, *written]
        # The stream's first two chunks read zero, whatever they are.
        unread = min(num_chunks, max(0, 2 - (state.position + start) // chunk_size))
        y_BNTHV = _read(q_BNTHS, memories[:num_chunks], unread, segments_BNT, current_B, v.dtype)
        outputs.append(y_BNTHV.flatten(1, 2))
        memory, next_memory = memories[-2:]

    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    running_log_norm, running_values, running_features, running_document = (x.squeeze(1) for x in running)
    return y, WorkingMemoryState(
        *memory,
        *next_memory,
        running_log_norm,
        running_values,
        running_features,
        running_document,
        state.position + length,
    )


def _join(running: _Chunks, piece: _Chunks) -> _Chunks:
    """The running chunk and the piece after it, as the online softmax joins them; another document is forgotten."""
    same_BN = running.document_BN == piece.document_BN
    running_log_norm = torch.where(same_BN[..., None, None], running.log_norm_BNHS, -torch.inf)
    log_norm = torch.logaddexp(running_log_norm, piece.log_norm_BNHS)
    old, new = ((x - log_norm).exp().unsqueeze(-1) for x in (running_log_norm, piece.log_norm_BNHS))
    same = same_BN[..., None, None, None]
    values = old * torch.where(same, running.values_BNHSV, 0.0) + new * piece.values_BNHSV
    features = old * torch.where(same, running.features_BNHSF, 0.0) + new * piece.features_BNHSF
    return _Chunks(log_norm, values, features, piece.document_BN)


def _empty(chunks: _Chunks) -> _Chunks:
    return _Chunks(
        torch.full_like(chunks.log_norm_BNHS[:, :1], -torch.inf),
        torch.zeros_like(chunks.values_BNHSV[:, :1]),
        torch.zeros_like(chunks.features_BNHSF[:, :1]),
        torch.full_like(chunks.document_BN[:, :1], NO_DOCUMENT, memory_format=torch.contiguous_format),
    )


def _scan(memory: _Memory, chunks: _Chunks) -> list[_Memory]:
    """The memory after each chunk."""
    before, after, same = [], [], []
    log_norm_BHS, document_B = memory.log_norm_BHS, memory.document_B
    for chunk_log_norm_BHS, last_B in zip(chunks.log_norm_BNHS.unbind(1), chunks.document_BN.unbind(1), strict=True):
        same.append((document_B == last_B)[:, None, None])
        before.append(torch.where(same[-1], log_norm_BHS, -torch.inf))
        log_norm_BHS, document_B = torch.logaddexp(before[-1], chunk_log_norm_BHS), last_B
        after.append(log_norm_BHS)
    after_BNHS = torch.stack(after, dim=1)
    decay_BNHS = (torch.stack(before, dim=1) - after_BNHS).exp()  # 1 - rho, exact where rho is close to one
    rho_BNHS1 = (chunks.log_norm_BNHS - after_BNHS).exp().unsqueeze(-1)
    u_BNHSV = rho_BNHS1 * chunks.values_BNHSV
    delta_rule = chunks.features_BNHSF.shape[-1] > 0
    if delta_rule:
        a_BNHSS = decay_BNHS.diag_embed() - rho_BNHS1 * chunks.features_BNHSF
    else:
        a_BNHSS = decay_BNHS.unsqueeze(-1)

    written = []
    matrix_BHSV = memory.matrix_BHSV
    for n, (a_BHSS, u_BHSV) in enumerate(zip(a_BNHSS.unbind(1), u_BNHSV.unbind(1), strict=True)):
        matrix_BHSV = torch.where(same[n].unsqueeze(-1), matrix_BHSV, 0.0)
        if delta_rule:
            product = torch.baddbmm(u_BHSV.flatten(0, 1), a_BHSS.flatten(0, 1), matrix_BHSV.flatten(0, 1))
            matrix_BHSV = product.view_as(u_BHSV)
        else:
            matrix_BHSV = torch.addcmul(u_BHSV, a_BHSS, matrix_BHSV)
        written.append(_Memory(matrix_BHSV, after[n], chunks.document_BN[:, n].clone()))
    return written


def _read(
    q_BNTHS: Tensor,
    memories: list[_Memory],
    unread: int,
    segments_BNT: Tensor | None,
    current_B: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """[B, N, T, H, V]: each chunk but the first `unread` reads its memory.

    Without segments all timesteps belong to the current document.
    """
    matrix_BNHSV = torch.stack([memory.matrix_BHSV for memory in memories], dim=1)
    document_BN1 = torch.stack([memory.document_B for memory in memories], dim=1).unsqueeze(-1)
    if segments_BNT is not None:
        return chunk_products.read(q_BNTHS, matrix_BNHSV[:, unread:], segments_BNT == document_BN1, dtype)
    holds_BN1 = document_BN1 == current_B[:, None, None]
    matrix_BNHSV = torch.where(holds_BN1[..., None, None], matrix_BNHSV, 0.0)
    return chunk_products.read(q_BNTHS, matrix_BNHSV[:, unread:], None, dtype)
