"""A piece of a stream: what is computed of it and what is carried over.

A write is affine in the memory, M' = A M + U, where A and U need only the chunk and the running log-normaliser. So
there are three steps (README.md derives them):

    sums  of every chunk, in parallel: l = logsumexp_time(K), K~ V, K~ Q~                  (`chunk_products.sums`)
    scan  over chunks, in sequence: M' = A M + U, A = exp(l_M - l') - rho K~ Q~, U = rho K~ V     (no time axis)
    read  of every chunk, in parallel: y = softmax_S(q) M                                  (`chunk_products.read`)

A call reads a head (what the running chunk still lacks), a body of whole chunks and a tail (a new running chunk). The
body goes through all three steps at once (`whole_chunks.chunks`).

Shape suffixes: B batch, N chunks, T timesteps of a chunk (or of a piece of one), H heads, S key dim, V value dim,
F features (S for the delta rule, 0 without).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from . import chunk_products, whole_chunks
from .state import NO_DOCUMENT, WorkingMemoryState, compute_dtype


class _Memory(NamedTuple):
    matrix_BHSV: Tensor
    log_norm_BHS: Tensor
    document_B: Tensor


class _Chunk(NamedTuple):
    """Sums over a chunk's last document: logsumexp_time(K), K~ V, K~ Q~."""

    log_norm_BHS: Tensor
    values_BHSV: Tensor
    features_BHSF: Tensor
    document_B: Tensor


def working_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: WorkingMemoryState | None,
    segments: Tensor | None,
    *,
    chunk_size: int,
    delta_rule: bool,
    backend: str,
) -> tuple[Tensor, WorkingMemoryState]:
    """See `op.working_memory`, which checks the arguments; `backend` is "torch" or "triton"."""
    dtype = compute_dtype(q, k, v)
    if state is None:
        state = WorkingMemoryState.empty(q, v, delta_rule=delta_rule)
    memory = _Memory(state.memory.to(dtype), state.log_norm.to(dtype), state.document)
    next_memory = _Memory(state.next_memory.to(dtype), state.next_log_norm.to(dtype), state.next_document)
    running = _Chunk(
        state.running_log_norm.to(dtype),
        state.running_values.to(dtype),
        state.running_features.to(dtype),
        state.running_document,
    )
    current_B = state.current_document()
    one_document = segments is None and state.position == 0

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
        if segments is None:
            segments_BNT = current_B[:, None, None].expand(-1, num_chunks, timesteps)
            last_BN, keep_BNT = segments_BNT[:, :, 0], None
        else:
            segments_BNT = segments[:, start:stop].unflatten(1, (-1, timesteps))
            last_BN = segments_BNT[:, :, -1].clone()  # not a view: the state must not keep all segments alive
            keep_BNT = segments_BNT == last_BN[:, :, None]

        # The stream's first two chunks read zero, whatever they are.
        unread = min(num_chunks, max(0, 2 - (state.position + start) // chunk_size))
        # What chunk n reads is of document n of these, and it is written to what is of document n + 1.
        document_BN = torch.cat([memory.document_B[:, None], next_memory.document_B[:, None], last_BN], dim=1)
        holds_BNT = None if one_document else segments_BNT == document_BN[:, :num_chunks, None]
        if offset == 0 and timesteps == chunk_size:
            same_BN = None if one_document else document_BN[:, 1:-1] == last_BN
            y_BNTHV, memory, next_memory = _whole_chunks(
                q_BNTHS,
                k_BNTHS,
                v_BNTHV,
                keep_BNT,
                holds_BNT,
                same_BN,
                memory,
                next_memory,
                last_BN,
                unread,
                delta_rule,
                backend,
            )
            outputs.append(y_BNTHV.flatten(1, 2))
            continue

        # A piece of one chunk.
        matrix_BNHSV = memory.matrix_BHSV.unsqueeze(1)[:, unread:]
        y_BNTHV = chunk_products.read(q_BNTHS, matrix_BNHSV, holds_BNT, v.dtype, backend)
        outputs.append(y_BNTHV.flatten(1, 2))
        sums = chunk_products.sums(k_BNTHS, v_BNTHV, keep_BNT, delta_rule, dtype, backend)
        log_norm, values, features = (x.squeeze(1) for x in sums)
        piece = _Chunk(log_norm, values, features, last_BN.squeeze(1))
        if offset:
            # Without segments the running chunk's document is the current one.
            running = running if segments is None else _forget_others(running, piece.document_B)
            piece = _join(running, piece)
        offset = (offset + stop - start) % chunk_size
        if offset:
            running = piece
        else:
            memory, next_memory, running = next_memory, _write(next_memory, piece, one_document), _empty(piece)

    y = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
    return y, WorkingMemoryState(*memory, *next_memory, *running, state.position + length)


def _whole_chunks(
    q_BNTHS: Tensor,
    k_BNTHS: Tensor,
    v_BNTHV: Tensor,
    keep_BNT: Tensor | None,
    holds_BNT: Tensor | None,
    same_BN: Tensor | None,
    memory: _Memory,
    next_memory: _Memory,
    last_BN: Tensor,
    unread: int,
    delta_rule: bool,
    backend: str,
) -> tuple[Tensor, _Memory, _Memory]:
    """Reads [B, N, T, H, V], and the two memories after N chunks whose last documents are `last_BN`."""
    y, matrix, next_matrix, log_norms_BNHS, _, _ = whole_chunks.chunks(
        q_BNTHS,
        k_BNTHS,
        v_BNTHV,
        keep_BNT,
        holds_BNT,
        same_BN,
        memory.matrix_BHSV,
        next_memory.matrix_BHSV,
        next_memory.log_norm_BHS,
        unread,
        delta_rule,
        backend,
    )
    if last_BN.shape[1] > 1:
        log_norm_BHS, document_B = log_norms_BNHS[:, -2].clone(), last_BN[:, -2].clone()
    else:
        log_norm_BHS, document_B = next_memory.log_norm_BHS, next_memory.document_B
    after = _Memory(next_matrix, log_norms_BNHS[:, -1].clone(), last_BN[:, -1].clone())
    return y, _Memory(matrix, log_norm_BHS, document_B), after


def _join(running: _Chunk, piece: _Chunk) -> _Chunk:
    """The running chunk and the piece after it, as the online softmax joins them."""
    log_norm = torch.logaddexp(running.log_norm_BHS, piece.log_norm_BHS)
    old, new = ((x - log_norm).exp().unsqueeze(-1) for x in (running.log_norm_BHS, piece.log_norm_BHS))
    values = old * running.values_BHSV + new * piece.values_BHSV
    features = old * running.features_BHSF + new * piece.features_BHSF
    return _Chunk(log_norm, values, features, piece.document_B)


def _forget_others(running: _Chunk, document_B: Tensor) -> _Chunk:
    """The running chunk, empty where it is of another document than the piece's last."""
    same_B11 = (running.document_B == document_B)[:, None, None]
    return _Chunk(
        torch.where(same_B11, running.log_norm_BHS, -torch.inf),
        torch.where(same_B11.unsqueeze(-1), running.values_BHSV, 0.0),
        torch.where(same_B11.unsqueeze(-1), running.features_BHSF, 0.0),
        document_B,
    )


def _empty(chunk: _Chunk) -> _Chunk:
    return _Chunk(
        torch.full_like(chunk.log_norm_BHS, -torch.inf),
        torch.zeros_like(chunk.values_BHSV),
        torch.zeros_like(chunk.features_BHSF),
        torch.full_like(chunk.document_B, NO_DOCUMENT, memory_format=torch.contiguous_format),
    )


def _write(memory: _Memory, chunk: _Chunk, one_document: bool) -> _Memory:
    """The memory after a chunk; with one document it is never cleared."""
    log_norm_BHS, matrix_BHSV = memory.log_norm_BHS, memory.matrix_BHSV
    if not one_document:
        same_B11 = (memory.document_B == chunk.document_B)[:, None, None]
        log_norm_BHS = torch.where(same_B11, log_norm_BHS, -torch.inf)
        matrix_BHSV = torch.where(same_B11.unsqueeze(-1), matrix_BHSV, 0.0)
    after_BHS = torch.logaddexp(log_norm_BHS, chunk.log_norm_BHS)
    decay_BHS = (log_norm_BHS - after_BHS).exp()  # 1 - rho, exact where rho is close to one
    rho_BHS1 = (chunk.log_norm_BHS - after_BHS).exp().unsqueeze(-1)
    u_BHSV = rho_BHS1 * chunk.values_BHSV
    if chunk.features_BHSF.shape[-1]:  # the delta rule
        a_BHSS = decay_BHS.diag_embed() - rho_BHS1 * chunk.features_BHSF
        product = torch.baddbmm(u_BHSV.flatten(0, 1), a_BHSS.flatten(0, 1), matrix_BHSV.flatten(0, 1))
        matrix_BHSV = product.view_as(u_BHSV)
    else:
        matrix_BHSV = torch.addcmul(u_BHSV, decay_BHS.unsqueeze(-1), matrix_BHSV)
    return _Memory(matrix_BHSV, after_BHS, chunk.document_B)
