"""The PyTorch backend: the two products over time that cost anything, sums and read of every chunk, with gradients.

It recomputes its softmaxes in the backward, and works on a few chunks at a time, so that the transposed and upcast
copies of keys and values stay in the cache. README.md derives the backward. `chunk_products.py` says what is computed.

Shape suffixes: B batch, N chunks, T timesteps of a chunk (or of a piece of one), H heads, S key dim, V value dim,
F features (S for the delta rule, 0 without), G matrices of one group (B, some chunks and H, flattened).

Masked timesteps are replaced by clean values before they are used and their gradients are filled with zeros: what
another document holds, infinities and NaN included, cannot reach a kept timestep even at rounding level.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_GROUP_BYTES_CPU = 4 << 20
_GROUP_BYTES = 256 << 20
"""Bytes of the values of one group: on a CPU what the caches hold, elsewhere enough to fill the device."""


def sums(
    k: Tensor, v: Tensor, keep: Tensor | None, delta_rule: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """See `chunk_products.sums`."""
    log_norm_BNHS, values_BNHSV, features_BNHSF = empty_sums(k, v, delta_rule, dtype)
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


def sums_backward(
    k: Tensor,
    v: Tensor,
    keep: Tensor | None,
    log_norm: Tensor,
    k_correction: Tensor,
    d_values: Tensor,
    d_features: Tensor,
) -> tuple[Tensor, Tensor]:
    """See `chunk_products.sums_backward`; chunks beyond those of the gradients get none."""
    dk, dv = k.new_empty(k.shape), v.new_empty(v.shape)
    dtype, last = log_norm.dtype, d_values.shape[1]
    dk[:, last:] = 0.0
    dv[:, last:] = 0.0
    for group in _groups(v[:, :last], dtype):
        # Nothing may have read what a piece left; elsewhere than on a CPU, looking would wait for the device.
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


def read(q: Tensor, memory: Tensor, holds: Tensor | None, dtype: torch.dtype) -> Tensor:
    """See `chunk_products.read`."""
    y = q.new_empty(*q.shape[:-1], memory.shape[-1], dtype=dtype)
    first = q.shape[1] - memory.shape[1]
    y[:, :first] = 0.0
    for group in _groups(y, memory.dtype, first):
        drop_GT1 = _drop(holds, group, q)
        q_GTS = _fill(_matrices(q[:, group], memory.dtype), drop_GT1, 0.0).softmax(dim=-1)
        y_GTV = torch.bmm(q_GTS, memory[:, _shift(group, first)].flatten(0, 2))
        _store(y[:, group].transpose(2, 3), _fill(y_GTV, drop_GT1, 0.0))
    return y


def read_backward(q: Tensor, memory: Tensor, holds: Tensor | None, dy: Tensor) -> tuple[Tensor, Tensor]:
    """See `chunk_products.read_backward`."""
    dq, d_memory = q.new_empty(q.shape), memory.new_empty(memory.shape)
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


def empty_sums(k: Tensor, v: Tensor, delta_rule: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Results of `sums` yet to be filled."""
    batch, num_chunks, _, heads, key_dim = k.shape
    shape = (batch, num_chunks, heads, key_dim)
    return (
        k.new_empty(shape, dtype=dtype),
        k.new_empty(*shape, v.shape[-1], dtype=dtype),
        k.new_empty(*shape, key_dim if delta_rule else 0, dtype=dtype),
    )


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
