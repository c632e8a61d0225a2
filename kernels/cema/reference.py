"""CEMA as the papers write it: a loop over time (Megalodon, arXiv 2404.08801, section 3.1; Gecko, arXiv 2601.06463).

A complex number is a last axis of length ``R = 2``, (real, imaginary); a real EMA has ``R = 1``. Complex tensors are
avoided: torch.compile and FSDP do not treat them rightly.
"""

import torch
from torch import Tensor


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Product of numbers kept as ``[..., R]``; the leading axes broadcast."""
    if a.shape[-1] == 1:
        return a * b
    a_re, a_im = a.unbind(-1)
    b_re, b_im = b.unbind(-1)
    return torch.stack((a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re), dim=-1)


def multiplier(decay: Tensor, phase: Tensor | None) -> Tensor:
    """``q = decay · e^{i·phase}`` as ``[D, N, R]``; without a phase it is the decay itself."""
    if phase is None:
        return decay.unsqueeze(-1)
    return torch.stack((decay * phase.cos(), decay * phase.sin()), dim=-1)


def step(x: Tensor, p: Tensor, q: Tensor, gamma: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One timestep: ``h ← q h + p x`` and ``y = Re Σ_n γ_n h_n``.

    ``x`` [B, D], ``p`` [D, N], ``q`` and ``gamma`` [D, N, R], ``state`` [B, D, N, R]. Returns y [B, D] and the state.
    """
    inputs = (x.unsqueeze(-1) * p).unsqueeze(-1)
    if q.shape[-1] == 2:
        inputs = torch.cat((inputs, torch.zeros_like(inputs)), dim=-1)
    state = multiply(q, state) + inputs
    return multiply(gamma, state)[..., 0].sum(-1), state


def cema_reference(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """``h_t = q h_{t-1} + p x_t``, ``y_t = Re Σ_n γ_n h_{t,n}``, with ``h_{t-1} ← 0`` where a document starts.

    ``x`` [B, L, D], ``p`` and ``decay`` and ``phase`` [D, N], ``gamma`` [D, N, R], ``state`` [B, D, N, R], all of one
    dtype; ``document_starts`` [B, L] bool or None. Returns y [B, L, D] and the state after the last timestep.
    """
    q = multiplier(decay, phase)
    outputs = []
    for t in range(x.shape[1]):
        if document_starts is not None:
            state = torch.where(document_starts[:, t, None, None, None], 0.0, state)
        y, state = step(x[:, t], p, q, gamma, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state
