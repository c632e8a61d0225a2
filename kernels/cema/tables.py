"""What a block of T timesteps of CEMA needs to know of the parameters, and the parameters' gradients from it.

D features, N states a feature, R parts of a number (2 complex, 1 real), S = N·R. Inside the operation a number is a
scalar of a complex tensor (a real one if R = 1), so that both cases read alike; the operation is opaque to
torch.compile and FSDP, which do not treat complex tensors rightly. The gradient of a complex number is ∂/∂re + i ∂/∂im.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def as_numbers(x: Tensor) -> Tensor:
    """``[..., R]`` as scalars ``[...]``, a view."""
    return torch.view_as_complex(x) if x.shape[-1] == 2 else x.squeeze(-1)


def as_parts(x: Tensor) -> Tensor:
    """The inverse of ``as_numbers``, a view."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.unsqueeze(-1)


class Tables(NamedTuple):
    """Constants of a block."""

    kernel: Tensor  # [D, T]      Re Σ_n γ_n p_n q_n^t: the response after t timesteps
    in_weights: Tensor  # [D, T, S]  p q^{T-1-t}: what timestep t adds to the state at the block's end
    out_weights: Tensor  # [D, T, S]  conj(γ q^{t+1}): the state before, as (re, im), times this is its share in y_t
    powers: Tensor  # [D, T+1, N] numbers q^t: what t timesteps do to a state


def _powers(decay: Tensor, phase: Tensor | None, num_powers: int) -> Tensor:
    """``q^t`` for ``t < num_powers``, at least two, as numbers ``[D, num_powers, N]``.

    Doubled in number time and again, in float64: an angle of 64 · 2π in float32 would already be wrong by 1e-5.
    """
    q = decay.double() if phase is None else torch.polar(decay.double(), phase.double())
    powers = q.new_empty(num_powers, *q.shape)
    powers[0], powers[1] = 1.0, q
    known = 2
    while known < num_powers:
        further = min(known - 1, num_powers - known)
        torch.mul(powers[1 : further + 1], powers[known - 1], out=powers[known : known + further])
        known += further
    dtype = decay.dtype if phase is None else decay.dtype.to_complex()
    return powers.transpose(0, 1).to(dtype, memory_format=torch.contiguous_format)


def make_tables(p: Tensor, decay: Tensor, phase: Tensor | None, gamma: Tensor, block_length: int) -> Tables:
    """The tables from ``p``, ``decay``, ``phase`` [D, N] and ``gamma`` [D, N, R], without autograd."""
    powers = _powers(decay, phase, block_length + 1)
    response = as_numbers(gamma.contiguous()).unsqueeze(1) * powers
    backwards = torch.arange(block_length - 1, -1, -1, device=p.device)
    return Tables(
        kernel=(response[:, :-1].real * p.unsqueeze(1)).sum(-1),
        in_weights=as_parts(powers[:, backwards] * p.unsqueeze(1)).flatten(2),
        out_weights=as_parts(response[:, 1:].conj()).flatten(2),
        powers=powers,
    )


def parameter_gradients(
    p: Tensor, decay: Tensor, phase: Tensor | None, gamma: Tensor, powers: Tensor, gradients: Tables
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Gradients of ``p``, ``decay``, ``phase``, ``gamma`` from the tables' (``gradients.powers`` is overwritten)."""
    numbers = gamma.shape[1:]
    dkernel_DT1 = gradients.kernel.unsqueeze(-1)
    din = as_numbers(gradients.in_weights.flip(1).unflatten(-1, numbers))  # of p q^t
    dresponse = torch.zeros_like(powers)  # of γ q^t
    dresponse[:, 1:] = as_numbers(gradients.out_weights.unflatten(-1, numbers)).conj()
    gamma_DN = as_numbers(gamma.contiguous())
    conj_powers = powers.conj().resolve_conj()

    # k = Re Σ p γ q^t reaches p here, and γ and q through γ q^t
    dp = (conj_powers[:, :-1] * (dkernel_DT1 * gamma_DN.conj().unsqueeze(1) + din)).sum(1).real
    dresponse[:, :-1].real += dkernel_DT1 * p.unsqueeze(1)
    dgamma = as_parts((conj_powers * dresponse).sum(1))
    dpowers = gradients.powers.addcmul_(dresponse, gamma_DN.conj().resolve_conj().unsqueeze(1))
    dpowers[:, :-1].addcmul_(din, p.unsqueeze(1).to(din.dtype))

    # dq = Σ t conj(q^{t-1}) d(q^t), then q = decay e^{i phase}; nothing is divided by a decay, which may be zero
    exponents = torch.arange(1, powers.shape[1], device=p.device, dtype=p.dtype).unsqueeze(-1)
    dq = (conj_powers[:, :-1] * dpowers[:, 1:] * exponents).sum(1)
    if phase is None:
        return dp, dq, None, dgamma
    turned = dq * torch.polar(torch.ones_like(phase), -phase)
    return dp, turned.real, decay * turned.imag, dgamma
