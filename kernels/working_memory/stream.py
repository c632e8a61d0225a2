"""A piece of a stream: what is computed of it and what is carried over.

A write is affine in the memory, M' = A M + U, where A and U need only the chunk and the running log-normaliser. So
there are three steps (README.md derives them):

    sums  of every chunk, in parallel: l = logsumexp_time(K), K~ V, K~ Q~                  (`chunk_products.sums`)
    scan  over chunks, in sequence: M' = A M + U, A = exp(l_M - l') - rho K~ Q~, U = rho K~ V     (no time axis)
    read  of every chunk, in parallel: y = softmax_S(q) M                                  (`chunk_products.read`)

A call reads a head (what the running chunk still lacks), a body of whole chunks and a tail (a new running chunk). The
backend "triton" takes the body through all three steps at once (`whole_chunks.chunks`).

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
    backend: str,
) -> tuple[Tensor, WorkingMemoryState]:
    """See `op.working_memory`, which checks the arguments; `backend` is "torch" or "triton"."""
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
        if backend == "triton" and offset == 0 and timesteps == chunk_size:
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
            )
            outputs.append(y_BNTHV.flatten(1, 2))
            continue

        log_norm, values, features = chunk_products.sums(k_BNTHS, v_BNTHV, keep_BNT, delta_rule, dtype, backend)
        chunks = _Chunks(log_norm, values, features, last_BN)
        if offset:
            # Without segments the running chunk's document is the current one.
            chunks = _join(running, chunks) if segments is None else _join(_forget_others(running, last_BN), chunks)
        offset = (offset + stop - start) % chunk_size
        written = [] if offset else _scan(next_memory, chunks, one_document)
        running = chunks if offset else _empty(chunks)
        memories = [memory, next_memory, *written]
        matrix_BNHSV = torch.stack([x.matrix_BHSV for x in memories[:num_chunks]], dim=1)
        y_BNTHV = chunk_products.read(q_BNTHS, matrix_BNHSV[:, unread:], holds_BNT, v.dtype, backend)
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
    )
    if last_BN.shape[1] > 1:
        log_norm_BHS, document_B = log_norms_BNHS[:, -2].clone(), last_BN[:, -2].clone()
    else:
        log_norm_BHS, document_B = next_memory.log_norm_BHS, next_memory.document_B
    after = _Memory(next_matrix, log_norms_BNHS[:, -1].clone(), last_BN[:, -1].clone())
    return y, _Memory(matrix, log_norm_BHS, document_B), after


def _join(running: _Chunks, piece: _Chunks) -> _Chunks:
    """The running chunk and the piece after it, as the online softmax joins them."""
    log_norm = torch.logaddexp(running.log_norm_BNHS, piece.log_norm_BNHS)
    old, new = ((x - log_norm).exp().unsqueeze(-1) for x in (running.log_norm_BNHS, piece.log_norm_BNHS))
    values = old * running.values_BNHSV + new * piece.values_BNHSV
    features = old * running.features_BNHSF + new * piece.features_BNHSF
    return _Chunks(log_norm, values, features, piece.document_BN)


def _forget_others(running: _Chunks, last_BN: Tensor) -> _Chunks:
    """The running chunk, empty where it is of another document than the piece's last."""
    same = (running.document_BN == last_BN)[..., None, None]
    return _Chunks(
        torch.where(same, running.log_norm_BNHS, -torch.inf),
        torch.where(same.unsqueeze(-1), running.values_BNHSV, 0.0),
        torch.where(same.unsqueeze(-1), running.features_BNHSF, 0.0),
        last_BN,
    )


def _empty(chunks: _Chunks) -> _Chunks:
    return _Chunks(
        torch.full_like(chunks.log_norm_BNHS[:, :1], -torch.inf),
        torch.zeros_like(chunks.values_BNHSV[:, :1]),
        torch.zeros_like(chunks.features_BNHSF[:, :1]),
        torch.full_like(chunks.document_BN[:, :1], NO_DOCUMENT, memory_format=torch.contiguous_format),
    )


def _scan(memory: _Memory, chunks: _Chunks, one_document: bool) -> list[_Memory]:
    """The memory after each chunk; with one document it is never cleared."""
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
        if not one_document:
            matrix_BHSV = torch.where(same[n].unsqueeze(-1), matrix_BHSV, 0.0)
        if delta_rule:
            product = torch.baddbmm(u_BHSV.flatten(0, 1), a_BHSS.flatten(0, 1), matrix_BHSV.flatten(0, 1))
            matrix_BHSV = product.view_as(u_BHSV)
        else:
            matrix_BHSV = torch.addcmul(u_BHSV, a_BHSS, matrix_BHSV)
        written.append(_Memory(matrix_BHSV, after[n], chunks.document_BN[:, n].clone()))
    return written
