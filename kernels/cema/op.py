"""The complex exponential moving average: one typed function over all of its backends."""

from collections.abc import Callable

import torch
from torch import Tensor

from gecko_lab.kernels.backends import choose_backend
from gecko_lab.kernels.cema.reference import cema_reference
from gecko_lab.kernels.cema.torch import cema_torch


def _reference(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    y, state = cema_reference(x.to(state.dtype), p, decay, phase, gamma, state, document_starts)
    return y.to(x.dtype), state


def _triton(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from gecko_lab.kernels.cema.triton import cema_triton

    y, final, _, _ = cema_triton(x, p, decay, phase, gamma, state, document_starts)
    return y, final


_BACKENDS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "triton": _triton,
    "torch": cema_torch,
    "reference": _reference,
}


def cema(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor | None = None,
    document_starts: Tensor | None = None,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Moving average over time with complex decays (Megalodon, arXiv 2404.08801; Gecko, arXiv 2601.06463).

        h_t = q ⊙ h_{t-1} + p · x_t,  q = decay · e^{i·phase}        h_{t-1} ← 0 where a document starts
        y_t = Re Σ_n γ_n h_{t,n}

    Differentiable in every floating argument; gradients flow through the state. No value of one document enters a
    product with another's, so outputs are bit for bit independent of the other documents.

    Args:
        x: [B, L, D], float64, float32, bfloat16 or float16, L ≥ 1.
        p: [D, N], weight of the input.
        decay: [D, N], |q| in (0, 1).
        phase: [D, N], arg q in radians, or None for a real moving average.
        gamma: [D, N, R], (real, imaginary) with R = 2, or R = 1 without a phase.
        state: [B, D, N, R], h before the first timestep; None is zero.
        document_starts: [B, L] bool; a start at t = 0 clears the incoming state.
        backend: "triton" (blocks of matrix products on a GPU), "torch" (the same in PyTorch), "reference" (a loop over
            time), or "auto": the best that can run, but torch for a single timestep.

    Returns:
        y [B, L, D] in x's dtype and the state [B, D, N, R] after the last timestep, float64 if x is and else float32,
        in which everything is computed.

    Raises:
        ValueError: an unknown backend, shapes that do not fit together, or a dtype that is not supported.
    """
    _check(x, p, decay, phase, gamma, state, document_starts)
    # A single timestep is the recurrence itself: nothing to cut into blocks.
    backends = ("torch", "triton", "reference") if x.shape[1] == 1 else ("triton", "torch", "reference")
    run = _BACKENDS[choose_backend("cema", backend, backends, x)]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if state is None:
        state = x.new_zeros(x.shape[0], *gamma.shape, dtype=dtype)
    parameters = (p, decay, phase, gamma, state)
    return run(x, *(None if t is None else t.to(dtype) for t in parameters), document_starts)


def _check(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor | None,
    document_starts: Tensor | None,
) -> None:
    if x.ndim != 3 or x.shape[1] < 1:
        raise ValueError(f"cema: x must be [B, L, D] with L ≥ 1, but is {list(x.shape)}")
    if x.dtype not in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"cema: x must be float64, float32, bfloat16 or float16, but is {x.dtype}")
    batch, length, num_features = x.shape
    num_states = p.shape[-1]
    num_parts = 1 if phase is None else 2
    per_state = (num_features, num_states)
    expected = {
        "p": (p, per_state),
        "decay": (decay, per_state),
        "phase": (phase, per_state),
        "gamma": (gamma, (*per_state, num_parts)),
        "state": (state, (batch, *per_state, num_parts)),
        "document_starts": (document_starts, (batch, length)),
    }
    wrong = [
        f"{name} must be {list(shape)}, but is {list(tensor.shape)}"
        for name, (tensor, shape) in expected.items()
        if tensor is not None and tensor.shape != shape
    ]
    if document_starts is not None and document_starts.dtype != torch.bool:
        wrong.append(f"document_starts must be bool, but is {document_starts.dtype}")
    if wrong:
        raise ValueError(
            f"cema: with x {list(x.shape)} (phase {'absent' if phase is None else 'given'}), {'; '.join(wrong)}"
        )
