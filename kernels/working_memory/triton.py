"""The Triton backend: what `torch.py` computes for the chunks of a piece, and whole chunks from sums to reads at once.

The softmaxes are written out once, in the dtype of the values, as operands of products on tensor cores; sums and the
memory that is carried from chunk to chunk are float32. README.md derives the backward and counts bytes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gecko_lab.kernels.working_memory.triton_gradients import key_gradient, softmax_gradient
from gecko_lab.kernels.working_memory.triton_launch import time_scale
from gecko_lab.kernels.working_memory.triton_products import d_features, over_features, over_time
from gecko_lab.kernels.working_memory.triton_scan import scan, scan_normalisers
from gecko_lab.kernels.working_memory.triton_scan_backward import FinalGradients, scan_backward
from gecko_lab.kernels.working_memory.triton_softmax import softmaxes, time_log_norm


def sums(k: Tensor, v: Tensor, keep: Tensor | None, delta_rule: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See `chunk_products.sums`; everything is float32."""
    k, v, keep = _unit_stride(k), _unit_stride(v), _contiguous(keep)
    log_norm = time_log_norm(k, keep)
    return log_norm, *_products(k, v, keep, log_norm, delta_rule, 1.0, torch.float32)


def sums_backward(
    k: Tensor, v: Tensor, keep: Tensor | None, log_norm: Tensor, correction: Tensor, d_values: Tensor, d_sums: Tensor
) -> tuple[Tensor, Tensor]:
    """See `chunk_products.sums_backward`."""
    d_values, d_sums = (x.to(v.dtype).contiguous() for x in (d_values, d_sums))
    return _sums_backward(k, v, keep, log_norm, correction.contiguous(), d_values, d_sums, k.shape[1])


def read(q: Tensor, memory: Tensor, holds: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `chunk_products.read`."""
    q, holds = _unit_stride(q), _contiguous(holds)
    _, features = softmaxes(q, holds, dtype)
    assert features is not None
    return over_features(
        features, memory.to(dtype).contiguous(), holds, first=q.shape[1] - memory.shape[1], last=q.shape[1]
    )


def read_backward(q: Tensor, memory: Tensor, holds: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
    """See `chunk_products.read_backward`; the gradient of the memory is float32."""
    q, dy, holds = _unit_stride(q), _unit_stride(dy), _contiguous(holds)
    first = q.shape[1] - memory.shape[1]
    _, features = softmaxes(q, holds, dy.dtype)
    assert features is not None
    dq = softmax_gradient(q, dy, memory.to(dy.dtype).contiguous(), holds, first=first, last=q.shape[1], dtype=q.dtype)
    return dq, over_time(features, dy, holds, first=first)[:, first:].contiguous()


def chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    holds: Tensor | None,
    same: Tensor | None,
    memory: Tensor,
    next_memory: Tensor,
    next_log_norm: Tensor,
    unread: int,
    delta_rule: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `whole_chunks.chunks`."""
    q, k, v = _unit_stride(q), _unit_stride(k), _unit_stride(v)
    keep, holds, same = _contiguous(keep), _contiguous(holds), _contiguous(same)
    memory, next_memory, next_log_norm = memory.contiguous(), next_memory.contiguous(), next_log_norm.contiguous()
    log_norms = scan_normalisers(time_log_norm(k, keep), same, next_log_norm)
    values, features = _products(k, v, keep, log_norms, delta_rule, -1.0, v.dtype)
    written = scan(values, features, same, memory, next_memory, next_log_norm, log_norms)
    del values
    _, reads = softmaxes(q, holds, v.dtype)
    assert reads is not None
    y = over_features(reads, written.history[:, unread:], holds, first=unread, last=q.shape[1])
    return y, written.last_memory, written.last_next_memory, log_norms, written.history, features


def chunks_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    holds: Tensor | None,
    same: Tensor | None,
    next_log_norm: Tensor,
    log_norms: Tensor,
    history: Tensor,
    features: Tensor,
    dy: Tensor,
    d_memory: Tensor | None,
    d_next_memory: Tensor | None,
    d_log_norms: Tensor | None,
    unread: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `whole_chunks.chunks_backward`."""
    q, dy, holds, same = _unit_stride(q), _unit_stride(dy), _contiguous(holds), _contiguous(same)
    num_chunks = q.shape[1]
    _, reads = softmaxes(q, holds, v.dtype)
    assert reads is not None
    d_read = over_time(reads, dy, holds, first=unread)
    dq = softmax_gradient(q, dy, history[:, unread:], holds, first=unread, last=num_chunks, dtype=q.dtype)

    final, last = None, max(0, num_chunks - 2)  # what the last two chunks write is read beyond the end only
    if d_memory is not None or d_next_memory is not None or d_log_norms is not None:
        last = num_chunks
        final = FinalGradients(
            _or_zeros(d_memory, d_read[:, 0]), _or_zeros(d_next_memory, d_read[:, 0]), _or_zeros(d_log_norms, log_norms)
        )
    next_log_norm = next_log_norm.contiguous()
    d = scan_backward(features, same, next_log_norm, log_norms, history, d_read, final, last)
    delta_rule = features.shape[-1] > 0
    d_sums = d_features(d.values, history, same, last) if delta_rule else features
    dk, dv = _sums_backward(k, v, keep, log_norms, d.correction, d.values, d_sums, last)
    return dq, dk, dv, d_read[:, 0].clone(), d.next_memory, d.next_log_norm


def _products(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    log_norm: Tensor,
    delta_rule: bool,
    sign: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """exp(K - log_norm)ᵀ V [B, N, H, S, V] float32, and `sign` exp(K - log_norm)ᵀ Q~ [B, N, H, S, F] in `dtype`."""
    time, features = softmaxes(k, keep, v.dtype, log_norm=log_norm, features=delta_rule)
    assert time is not None
    scale = 1 / time_scale(v.dtype)
    values = over_time(time, v, keep, scale=scale)
    if features is None:
        return values, values.new_empty(*values.shape[:-1], 0, dtype=dtype)
    return values, over_time(time, features, None, scale=sign * scale, dtype=dtype)


def _sums_backward(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    log_norm: Tensor,
    correction: Tensor,
    d_values: Tensor,
    d_sums: Tensor,
    last: int,
) -> tuple[Tensor, Tensor]:
    """Gradients of k and v through the sums of the chunks before `last`."""
    k, v, keep = _unit_stride(k), _unit_stride(v), _contiguous(keep)
    time, features = softmaxes(k, keep, v.dtype, log_norm=log_norm, features=d_sums.shape[-1] > 0)
    assert time is not None
    dk = key_gradient(k, v, keep, time, features, log_norm, correction, d_values, d_sums, last)
    return dk, over_features(time, d_values, keep, first=0, last=last, scale=1 / time_scale(v.dtype))


def _unit_stride(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _or_zeros(x: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like, memory_format=torch.contiguous_format) if x is None else x.contiguous()
