"""CEMA in Triton as a custom operation: forward and backward. Derivation in README.md.

Whole blocks of T timesteps go through products of matrices, the few timesteps after them through the recurrence itself.
"""

import torch
from torch import Tensor

from gecko_lab.kernels.cema.triton_launch import choose_launch, choose_spans
from gecko_lab.kernels.cema.triton_operation import Operation
from gecko_lab.kernels.operation import operation


@operation("gecko_lab::cema_triton")
def cema_triton(
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Outputs [B, L, D] in x's dtype, the final state [B, D, N, R], and for the backward states in between.

    Those are the states before the spans [B · num_spans, R, D, N] and after the whole blocks [B, D, N, R].
    """
    operation = Operation(x, p, decay, phase, gamma, document_starts)
    x, state = x.contiguous(), state.contiguous()
    y = torch.empty_like(x)
    states = state.new_empty(operation.num_columns, *operation.plane)
    middle = state
    if operation.spans.num_blocks:
        tables = operation.tables(derivatives=False)
        sums = operation.span_sums(x, tables, reverse=False)
        states, middle = operation.span_states(sums, state, tables, reverse=False)
        operation.outputs(x, y, states, tables, reverse=False)
    final = operation.recurrence(x, y, middle) if operation.first_rest < operation.length else middle.clone()
    return y, final, states, middle.clone() if middle is state else middle


@cema_triton.register_fake
def _(x, p, decay, phase, gamma, state, document_starts):
    launch = choose_launch(x.dtype, gamma.shape[1])
    spans = choose_spans(*x.shape, launch)
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    states = state.new_empty(x.shape[0] * spans.num_spans, gamma.shape[2], gamma.shape[0], launch.num_states)
    return y, state.new_empty(state.shape), states, state.new_empty(state.shape)


@operation("gecko_lab::cema_triton_backward")
def cema_triton_backward(
    dy: Tensor,
    dfinal: Tensor,
    x: Tensor,
    p: Tensor,
    decay: Tensor,
    phase: Tensor | None,
    gamma: Tensor,
    state: Tensor,
    document_starts: Tensor | None,
    states: Tensor,
    middle: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the floating arguments, an empty one for a missing phase."""
    operation = Operation(x, p, decay, phase, gamma, document_starts)
    x, dy, dstate = x.contiguous(), dy.contiguous(), dfinal.contiguous()
    dx = torch.empty_like(x)
    gradients = []
    if operation.first_rest < operation.length:
        dstate, *through_rest = operation.recurrence_gradients(x, dy, dx, middle, dstate)
        gradients.append(through_rest)
    if operation.spans.num_blocks:
        tables = operation.tables(derivatives=True)
        readings = operation.span_sums(dy, tables, reverse=True)
        after, dstate = operation.span_states(readings, dstate, tables, reverse=True)
        operation.outputs(dy, dx, after, tables, reverse=True)
        gradients.append([*operation.parameter_gradients(x, dy, states, after, readings, tables)])
        if document_starts is not None:
            dstate = torch.where(document_starts[:, 0, None, None, None], 0.0, dstate)
    dp, dq, dgamma = gradients[0] if len(gradients) == 1 else (a + b for a, b in zip(*gradients, strict=True))
    if phase is None:
        return dx, dp, dq[0], p.new_empty(0), dgamma, dstate
    cos, sin = phase.cos(), phase.sin()
    return dx, dp, cos * dq[0] + sin * dq[1], decay * (cos * dq[1] - sin * dq[0]), dgamma, dstate


@cema_triton_backward.register_fake
def _(dy, dfinal, x, p, decay, phase, gamma, state, document_starts, states, middle):
    dphase = p.new_empty(0) if phase is None else phase.new_empty(phase.shape)
    dx, dp, ddecay, dgamma, dstate = (t.new_empty(t.shape) for t in (x, p, decay, gamma, state))
    return dx, dp, ddecay, dphase, dgamma, dstate


def _setup_context(ctx, inputs, output):
    _, _, states, middle = output
    ctx.save_for_backward(*inputs, states, middle)
    ctx.set_materialize_grads(True)


def _backward(ctx, dy, dfinal, _dstates, _dmiddle):
    saved = ctx.saved_tensors  # read once: activation checkpointing allows no second time
    dx, dp, ddecay, dphase, dgamma, dstate = cema_triton_backward(dy, dfinal, *saved)
    has_phase = saved[3] is not None
    return dx, dp, ddecay, dphase if has_phase else None, dgamma, dstate, None


cema_triton.register_autograd(_backward, setup_context=_setup_context)
