"""The two products over time that cost anything, as custom ops with their own backward: sums and read of every chunk.

Each saves nothing but its inputs (and the sums), recomputes its softmaxes in the backward, and works on a few chunks at
a time, so that the transposed and upcast copies of keys and values stay in the cache. README.md derives the backward.

Shape suffixes: B batch, N chunks, T timesteps of a chunk (or of a piece of one), H heads, S key dim, V value dim,
F features (S for the delta rule, 0 without), G matrices of one group (B, some chunks and H, flattened).

Masked timesteps are replaced by clean values before they are used and their gradients are filled with zeros: what
another document holds, infinities and NaN included, cannot reach a kept timestep even at rounding level.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_GROUP_BYTES_CPU = 4 << 20
_GROUP_BYTES = 256 << 20
"""Bytes of the values of one group: on a CPU what the caches hold, elsewhere enough to fill the device."""


@torch.library.custom_op("gecko_lab::working_memory_sums", mutates_args=())
def sums(
    k: Tensor, v: Tensor, keep: Tensor | None, delta_rule: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of every chunk: l = logsumexp_time(K), K~ V and K~ Q~ with K~ = softmax_time(K)^T, Q~ = softmax_S(K).

    Args:
        k: keys [B, N, T, H, S].
        v: values [B, N, T, H, V].
        keep: timesteps that are written [B, N, T] bool, at least one in each chunk; None for all.
        delta_rule: False leaves K~ Q~ out.
        dtype: of the computation and of the results.

    Returns:
        l [B, N, H, S], K~ V [B, N, H, S, V], K~ Q~ [B, N, H, S, F].
    """
    log_norm_BNHS, values_BNHSV, features_BNHSF = _empty_sums(k, v, delta_rule, dtype)
    for group in _groups(v, dtype):
        k_GTS, v_GTV = _matrices(k[:, group], dtype), _matrices(v[:, group], dtype)
        drop_GT1 = _drop(keep, group, k)
        max_G1S = _fill(k_GTS, drop_GT1, -torch.inf).amax(dim=1, keepdim=True)
        k_time_GTS = (_fill(k_GTS, drop_GT1, -torch.inf) - max_G1S).exp_()
        total_G1S = k_time_GTS.sum(dim=1, keepdim=True)
        k_time_GTS.div_(total_G1S)
        _store(log_norm_BNHS[:, group], max_G1S + total_G1S.log())
        _store(values_BNHSV[:, group], torch.bmm(k_time_GTS.mT, _fill(v_GTV, drop_GT1, 0.0)))
        if delta_rule:
            k_features_GTS = _fill(k_GTS, drop_GT1, 0.0).softmax(dim=-1)
            _store(features_BNHSF[:, group], torch.bmm(k_time_GTS.mT, k_features_GTS))
    return log_norm_BNHS, values_BNHSV, features_BNHSF


@torch.library.custom_op("gecko_lab::working_memory_sums_backward", mutates_args=())
def sums_backward(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    log_norm: Tensor,
    k_correction: Tensor,
    d_values: Tensor,
    d_features: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of `sums` with respect to k and v.

    k_correction [B, N, H, S] is what the softmax over time adds to dK~ at every timestep of a feature.
    """
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    dtype = log_norm.dtype
    for group in _groups(v, dtype):
        # Nothing read the last two chunks of a stream; elsewhere than on a CPU, looking would wait for the device.
        if k.device.type == "cpu" and not any(x[:, group].any() for x in (k_correction, d_values, d_features)):
            dk[:, group] = 0.0
            dv[:, group] = 0.0
            continue
        k_GTS, v_GTV = _matrices(k[:, group], dtype), _matrices(v[:, group], dtype)
        drop_GT1 = _drop(keep, group, k)
        d_values_GSV = d_values[:, group].flatten(0, 2)
        k_time_GTS = (_fill(k_GTS, drop_GT1, -torch.inf) - log_norm[:, group].flatten(0, 2).unsqueeze(1)).exp_()
        dv_GTV = torch.bmm(k_time_GTS, d_values_GSV)
        dk_GTS = torch.baddbmm(
            k_correction[:, group].flatten(0, 2).unsqueeze(1), _fill(v_GTV, drop_GT1, 0.0), d_values_GSV.mT
        )
        if d_features.shape[-1]:
            d_features_GSF = d_features[:, group].flatten(0, 2)
            k_features_GTS = _fill(k_GTS, drop_GT1, 0.0).softmax(dim=-1)
            dk_GTS.baddbmm_(k_features_GTS, d_features_GSF.mT).mul_(k_time_GTS)
            dk_GTS.add_(_softmax_backward(k_features_GTS, torch.bmm(k_time_GTS, d_features_GSF)))
        else:
            dk_GTS.mul_(k_time_GTS)
        _store(dk[:, group].transpose(2, 3), _fill(dk_GTS, drop_GT1, 0.0))
        _store(dv[:, group].transpose(2, 3), _fill(dv_GTV, drop_GT1, 0.0))
    return dk, dv


@torch.library.custom_op("gecko_lab::working_memory_read", mutates_args=())
def read(q: Tensor, memory: Tensor, holds: Tensor | None, dtype: torch.dtype) -> Tensor:
    """softmax_S(q) M for every timestep, zero where the memory does not hold the query's document.

    Args:
        q: queries [B, N, T, H, S].
        memory: what the last N' <= N chunks read [B, N', H, S, V]; the chunks before them read zero.
        holds: timesteps that may read [B, N, T] bool; None for all.
        dtype: of the result.

    Returns:
        y [B, N, T, H, V].
    """
    y = q.new_empty(*q.shape[:-1], memory.shape[-1], dtype=dtype)
    first = q.shape[1] - memory.shape[1]
    y[:, :first] = 0.0
    for group in _groups(y, memory.dtype, first):
        drop_GT1 = _drop(holds, group, q)
        q_GTS = _fill(_matrices(q[:, group], memory.dtype), drop_GT1, 0.0).softmax(dim=-1)
        y_GTV = torch.bmm(q_GTS, memory[:, _shift(group, first)].flatten(0, 2))
        _store(y[:, group].transpose(2, 3), _fill(y_GTV, drop_GT1, 0.0))
    return y


@torch.library.custom_op("gecko_lab::working_memory_read_backward", mutates_args=())
def read_backward(q: Tensor, memory: Tensor, holds: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `read` with respect to q and memory."""
    dq, d_memory = torch.empty_like(q), torch.empty_like(memory)
    first = q.shape[1] - memory.shape[1]
    dq[:, :first] = 0.0
    for group in _groups(dy, memory.dtype, first):
        drop_GT1 = _drop(holds, group, q)
        q_GTS = _fill(_matrices(q[:, group], memory.dtype), drop_GT1, 0.0).softmax(dim=-1)
        dy_GTV = _fill(_matrices(dy[:, group], memory.dtype), drop_GT1, 0.0)
        memory_GSV = memory[:, _shift(group, first)].flatten(0, 2)
        _store(d_memory[:, _shift(group, first)], torch.bmm(q_GTS.mT, dy_GTV))
        dq_GTS = _softmax_backward(q_GTS, torch.bmm(dy_GTV, memory_GSV.mT))
        _store(dq[:, group].transpose(2, 3), _fill(dq_GTS, drop_GT1, 0.0))
    return dq, d_memory


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast would run the sums and the memory in half precision; devices such as meta have none."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


def _groups(values_BNTHV: Tensor, dtype: torch.dtype, first: int = 0) -> Iterator[slice]:
    """Slices of the chunks from `first` on whose values, upcast, take about the group's bytes."""
    batch, num_chunks, timesteps, heads, value_dim = values_BNTHV.shape
    budget = _GROUP_BYTES_CPU if values_BNTHV.device.type == "cpu" else _GROUP_BYTES
    size = max(1, budget // max(1, batch * timesteps * heads * value_dim * dtype.itemsize))
    return (slice(start, min(start + size, num_chunks)) for start in range(first, num_chunks, size))


def _shift(group: slice, first: int) -> slice:
    return slice(group.start - first, group.stop - first)


def _matrices(x_BNTHS: Tensor, dtype: torch.dtype) -> Tensor:
    """[B, N, T, H, S] -> [G, T, S], one matrix per row, chunk and head."""
    return x_BNTHS.transpose(2, 3).to(dtype, memory_format=torch.contiguous_format).flatten(0, 2)


def _store(target: Tensor, matrices: Tensor) -> None:
    target.copy_(matrices.view(target.shape))


def _drop(keep_BNT: Tensor | None, group: slice, like_BNTHS: Tensor) -> Tensor | None:
    """[G, T, 1], true where a timestep is left out; None where none is, as in most groups of long documents."""
    # Elsewhere than on a CPU, looking would wait for the device.
    if keep_BNT is None or (keep_BNT.device.type == "cpu" and bool(keep_BNT[:, group].all())):
        return None
    keep_BNHT = keep_BNT[:, group].unsqueeze(2).expand(-1, -1, like_BNTHS.shape[3], -1)
    return keep_BNHT.flatten(0, 2).logical_not().unsqueeze(-1)


def _fill(x_GTS: Tensor, drop_GT1: Tensor | None, value: float) -> Tensor:
    return x_GTS if drop_GT1 is None else x_GTS.masked_fill(drop_GT1, value)


def _softmax_backward(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """Gradient of the logits of a softmax over the last dim; overwrites `gradient`, that of the probabilities."""
    gradient.mul_(probabilities)
    return gradient.addcmul_(probabilities, gradient.sum(dim=-1, keepdim=True), value=-1)


def _empty_sums(k: Tensor, v: Tensor, delta_rule: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    batch, num_chunks, _, heads, key_dim = k.shape
    shape = (batch, num_chunks, heads, key_dim)
    return (
        k.new_empty(shape, dtype=dtype),
        k.new_empty(*shape, v.shape[-1], dtype=dtype),
        k.new_empty(*shape, key_dim if delta_rule else 0, dtype=dtype),
    )


@sums.register_fake
def _(k: Tensor, v: Tensor, keep: Tensor | None, delta_rule: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_sums(k, v, delta_rule, dtype)


@sums_backward.register_fake
def _(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    log_norm: Tensor,
    k_correction: Tensor,
    d_values: Tensor,
    d_features: Tensor,
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(k), torch.empty_like(v)


@read.register_fake
def _(q: Tensor, memory: Tensor, holds: Tensor | None, dtype: torch.dtype) -> Tensor:
    return q.new_empty(*q.shape[:-1], memory.shape[-1], dtype=dtype)


@read_backward.register_fake
def _(q: Tensor, memory: Tensor, holds: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(memory)


def _save_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    k, v, keep, _, _ = inputs
    ctx.save_for_backward(k, v, keep, *output)


def _sums_gradients(
    ctx: Any, d_log_norm: Tensor, d_values: Tensor, d_features: Tensor
) -> tuple[Tensor, Tensor, None, None, None]:
    k, v, keep, log_norm, values, features = ctx.saved_tensors
    with without_autocast(k.device):
        # sum_t K~ dK~, which the softmax over time subtracts, is the sum over each feature's row of the sums.
        k_correction = d_log_norm - (values * d_values).sum(dim=-1) - (features * d_features).sum(dim=-1)
        dk, dv = sums_backward(k, v, keep, log_norm, k_correction, d_values, d_features)
    return dk, dv, None, None, None


def _save_read(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    q, memory, holds, _ = inputs
    ctx.save_for_backward(q, memory, holds)


def _read_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, None, None]:
    q, memory, holds = ctx.saved_tensors
    with without_autocast(q.device):
        dq, d_memory = read_backward(q, memory, holds, dy)
    return dq, d_memory, None, None


sums.register_autograd(_sums_gradients, setup_context=_save_sums)
read.register_autograd(_read_gradients, setup_context=_save_read)
