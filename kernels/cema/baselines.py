"""What the blocked CEMA is measured against.

The usual convolution by FFT, as in S4, Mega and Megalodon, and PyTorch's scan of the states, as in S5.
"""

import torch
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan

_TABLE = 64


def _powers(decay: Tensor, phase: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of ``q^t`` as ``[D, N, number of exponents]``."""
    magnitude, angle = decay.unsqueeze(-1) ** exponents, phase.unsqueeze(-1) * exponents
    return magnitude * angle.cos(), magnitude * angle.sin()


def kernel_vandermonde(p: Tensor, decay: Tensor, phase: Tensor, gamma: Tensor, length: int) -> Tensor:
    """``k[d, t] = Re Σ_n γ p q^t`` [D, L] with all powers ``[D, N, L]`` at once, as Mega and S4 write it."""
    powers_re, powers_im = _powers(decay, phase, torch.arange(length, dtype=decay.dtype, device=decay.device))
    weight_re, weight_im = (gamma * p.unsqueeze(-1)).unbind(-1)
    return torch.einsum("dn,dnl->dl", weight_re, powers_re) - torch.einsum("dn,dnl->dl", weight_im, powers_im)


def kernel_factored(p: Tensor, decay: Tensor, phase: Tensor, gamma: Tensor, length: int) -> Tensor:
    """The same in the best way we know: ``q^{64 i + j} = q^{64 i} q^j`` as one matrix product."""
    low_re, low_im = _powers(decay, phase, torch.arange(_TABLE, dtype=decay.dtype, device=decay.device))
    high_re, high_im = _powers(decay, phase, torch.arange(0, length, _TABLE, dtype=decay.dtype, device=decay.device))
    weight_re, weight_im = (gamma * p.unsqueeze(-1)).unsqueeze(-2).unbind(-1)
    left = torch.cat((weight_re * high_re - weight_im * high_im, -weight_re * high_im - weight_im * high_re), dim=1)
    return torch.bmm(left.transpose(1, 2), torch.cat((low_re, low_im), dim=1)).flatten(1)[:, :length]


def cema_fft(x: Tensor, p: Tensor, decay: Tensor, phase: Tensor, gamma: Tensor, *, vandermonde: bool = True) -> Tensor:
    """Outputs [B, L, D] of ``cema`` without state or documents: a causal convolution through FFTs of length 2 L."""
    length = x.shape[1]
    make_kernel = kernel_vandermonde if vandermonde else kernel_factored
    spectrum = torch.fft.rfft(x.to(decay.dtype).transpose(1, 2), n=2 * length)
    response = torch.fft.rfft(make_kernel(p, decay, phase, gamma, length), n=2 * length)
    return torch.fft.irfft(spectrum * response, n=2 * length)[..., :length].transpose(1, 2).to(x.dtype)


def _then(earlier: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``h -> factor h + summand`` of one timestep after that of another."""
    return earlier[0] * later[0], later[0] * earlier[1] + later[1]


def cema_scan(x: Tensor, p: Tensor, decay: Tensor, phase: Tensor, gamma: Tensor) -> Tensor:
    """Outputs [B, L, D] of ``cema`` without state or documents: ``associative_scan`` of all states ``[B, L, D, N]``."""
    summands = x.to(decay.dtype).unsqueeze(-1) * p
    summands = torch.complex(summands, torch.zeros_like(summands))
    factors = torch.polar(decay, phase).expand_as(summands)
    _, states = associative_scan(_then, (factors, summands), dim=1, combine_mode="generic")
    return (states * torch.view_as_complex(gamma)).real.sum(dim=-1).to(x.dtype)
