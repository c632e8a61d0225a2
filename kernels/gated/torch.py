"""Gates in vectorised PyTorch, piece by piece of what the processor's cache holds."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CACHED_ELEMENTS = 1 << 19
"""Elements of one piece on CPU: 2 MiB in float32. Smaller ones cost calls, larger ones trips to memory."""


def gated_forward(gate: Tensor, x: Tensor, addend: Tensor | None) -> Tensor:
    """`silu(gate) ⊙ x + addend`, all of one shape and dtype; a new tensor. Below float32 each operation rounds."""
    y = torch.empty_like(gate, memory_format=torch.contiguous_format)
    tensors = [y, gate, x] if addend is None else [y, gate, x, addend]
    for piece_y, piece_gate, piece_x, *piece_addend in _pieces(tensors):
        torch.ops.aten.silu(piece_gate, out=piece_y).mul_(piece_x)
        for summand in piece_addend:
            piece_y += summand
    return y


def gated_backward(dy: Tensor, gate: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `gate` and `x`; that of the addend is `dy`."""
    dgate, dx = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (gate, x))
    for piece_dgate, piece_dx, piece_dy, piece_gate, piece_x in _pieces([dgate, dx, dy, gate, x]):
        torch.ops.aten.silu(piece_gate, out=piece_dx).mul_(piece_dy)
        dopened = torch.mul(piece_dy, piece_x, out=piece_dgate)
        torch.ops.aten.silu_backward(dopened, piece_gate, grad_input=piece_dgate)
    return dgate, dx


def _pieces(tensors: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The same ranges of the elements of every tensor: one on an accelerator, else as many as keep each in cache."""
    flat = [t.contiguous().view(-1) for t in tensors]
    if tensors[0].device.type != "cpu" or flat[0].numel() <= CACHED_ELEMENTS:
        return iter([tuple(flat)])
    return zip(*(t.split(CACHED_ELEMENTS) for t in flat), strict=True)
