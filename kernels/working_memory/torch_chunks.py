"""The PyTorch backend of whole chunks: sums, the scan over chunks and reads, with the backward pass of all three.

README.md derives it ("Whole chunks"). The adjoint of the normaliser needs neither sum: K^ = exp(K - l') takes the place
of K~ in the backward, and l' gets what is left over of each memory's adjoint.

Shape suffixes: B batch, N chunks, H heads, S key dim, V value dim, F features (S for the delta rule, 0 without).
"""

from __future__ import annotations

import torch
from torch import Tensor

from .torch import read, read_backward, sums, sums_backward


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
    log_norm_BNHS, values_BNHSV, features_BNHSF = sums(k, v, keep, delta_rule, memory.dtype)
    log_norms_BNHS = _accumulate(log_norm_BNHS, same, next_log_norm)
    rho_BNHS1 = log_norm_BNHS.sub_(log_norms_BNHS).exp_().unsqueeze(-1)
    values_BNHSV.mul_(rho_BNHS1)
    features_BNHSF.mul_(rho_BNHS1.neg())

    transitions = _transitions(_decay(log_norms_BNHS, same, next_log_norm), features_BNHSF)
    history = [memory, next_memory]
    for n, values_BHSV in enumerate(values_BNHSV.unbind(1)):
        history.append(_advance(transitions[:, n], _keep_same(history[-1], same, n), values_BHSV))
    history_BNHSV = torch.stack(history, dim=1)
    y = read(q, history_BNHSV[:, unread:-2], holds, v.dtype)
    last, next_last = (history_BNHSV[:, n].clone() for n in (-2, -1))
    return y, last, next_last, log_norms_BNHS, history_BNHSV, features_BNHSF


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
    num_chunks = q.shape[1]
    dq, d_read_BNHSV = read_backward(q, history[:, unread:num_chunks], holds, dy)
    # Adjoints of the history, but for what reaches a memory through the one that is written from it.
    zero_BHSV = torch.zeros_like(history[:, 0])
    direct = [zero_BHSV] * unread + [*d_read_BNHSV.unbind(1)]
    direct += [zero_BHSV if d is None else d for d in (d_memory, d_next_memory)]
    final = any(d is not None for d in (d_memory, d_next_memory, d_log_norms))
    num_written = num_chunks if final else max(0, num_chunks - 2)  # what later chunks write is read by nobody

    decay_BNHS = _decay(log_norms, same, next_log_norm)
    transitions = _transitions(decay_BNHS, features).mT if features.shape[-1] else decay_BNHS.unsqueeze(-1)
    written, d_written = history[:, 2 : num_written + 2], torch.empty_like(history[:, :num_written])
    d_BHSV = direct[num_written + 1]
    for n in range(num_written - 1, -1, -1):
        d_written[:, n] = d_BHSV
        d_BHSV = direct[n + 1] + _keep_same(_advance(transitions[:, n], d_BHSV, None), same, n)

    before_BNHSV = history[:, 1 : num_written + 1]
    if same is not None:
        before_BNHSV = torch.where(same[:, :num_written, None, None, None], before_BNHSV, 0.0)
    d_features = features[:, :num_written]
    if features.shape[-1]:
        d_features = (d_written @ before_BNHSV.mT).neg_()
    through_written, through_before = ((d_written * x).sum(dim=-1) for x in (written, before_BNHSV))
    correction_BNHS = torch.empty_like(through_written)
    d_log_norm_BHS = torch.zeros_like(next_log_norm)
    for n in range(num_written - 1, -1, -1):
        if d_log_norms is not None:
            d_log_norm_BHS = d_log_norm_BHS + d_log_norms[:, n]
        d_after_BHS = torch.sub(d_log_norm_BHS, through_written[:, n], out=correction_BNHS[:, n])
        d_log_norm_BHS = _keep_same(decay_BNHS[:, n] * (through_before[:, n] + d_after_BHS), same, n)
    dk, dv = sums_backward(k, v, keep, log_norms, correction_BNHS, d_written, d_features)
    return dq, dk, dv, direct[0].clone(), d_BHSV.clone(), d_log_norm_BHS


def _accumulate(log_norm_BNHS: Tensor, same: Tensor | None, next_log_norm_BHS: Tensor) -> Tensor:
    """Log-normaliser of the memory after each write."""
    after, log_norm_BHS = [], next_log_norm_BHS
    for n, chunk_BHS in enumerate(log_norm_BNHS.unbind(1)):
        log_norm_BHS = torch.logaddexp(_keep_same(log_norm_BHS, same, n, -torch.inf), chunk_BHS)
        after.append(log_norm_BHS)
    return torch.stack(after, dim=1)


def _decay(log_norms_BNHS: Tensor, same: Tensor | None, next_log_norm_BHS: Tensor) -> Tensor:
    """1 - rho of each write `[B, N, H, S]`, exact where rho is close to one."""
    before_BNHS = torch.cat((next_log_norm_BHS.unsqueeze(1), log_norms_BNHS[:, :-1]), dim=1)
    if same is not None:
        before_BNHS.masked_fill_(~same[:, :, None, None], -torch.inf)
    return before_BNHS.sub_(log_norms_BNHS).exp_()


def _transitions(decay_BNHS: Tensor, features_BNHSF: Tensor) -> Tensor:
    """What each write multiplies the memory by, `[B, N, H, S, S]`; `[B, N, H, S, 1]`, elementwise, if additive."""
    if features_BNHSF.shape[-1]:
        return decay_BNHS.diag_embed().add_(features_BNHSF)
    return decay_BNHS.unsqueeze(-1)


def _advance(transition: Tensor, x_BHSV: Tensor, addend_BHSV: Tensor | None) -> Tensor:
    """The product of one write's transition and `x`, and the addend."""
    product_BHSV = transition * x_BHSV if transition.shape[-1] == 1 else transition @ x_BHSV
    return product_BHSV if addend_BHSV is None else product_BHSV.add_(addend_BHSV)


def _keep_same(x: Tensor, same_BN: Tensor | None, n: int, fill: float = 0.0) -> Tensor:
    """`x` `[B, ...]`, and `fill` where the memory that chunk `n` is written to holds another document."""
    if same_BN is None:
        return x
    return torch.where(same_BN[:, n].view(-1, *[1] * (x.ndim - 1)), x, fill)
