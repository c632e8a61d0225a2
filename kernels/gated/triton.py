"""Gates on the GPU: each tensor passes once through memory, `silu` is computed again for the backward pass.

Legend: i_ index of a program, o_ offsets, m_ masks, b_ values in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
NUM_WARPS = 4
"""16 elements a thread: two loads of 16 bytes of each tensor in bfloat16."""


@triton.jit
def gated_forward_kernel(gate, x, addend, y, count, BLOCK: tl.constexpr):
    """All `[count]`; `addend` may be none."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = o < count
    b_gate = tl.load(gate + o, mask=mask, other=0.0).to(tl.float32)
    b_x = tl.load(x + o, mask=mask, other=0.0).to(tl.float32)
    b_y = b_gate * tl.sigmoid(b_gate) * b_x
    if addend is not None:
        b_y += tl.load(addend + o, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + o, b_y, mask=mask)


@triton.jit
def gated_backward_kernel(dy, gate, x, dgate, dx, count, BLOCK: tl.constexpr):
    """All `[count]`."""
    o = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = o < count
    b_dy = tl.load(dy + o, mask=mask, other=0.0).to(tl.float32)
    b_gate = tl.load(gate + o, mask=mask, other=0.0).to(tl.float32)
    b_x = tl.load(x + o, mask=mask, other=0.0).to(tl.float32)
    b_sigmoid = tl.sigmoid(b_gate)
    tl.store(dx + o, b_dy * b_gate * b_sigmoid, mask=mask)
    tl.store(dgate + o, b_dy * b_x * b_sigmoid * (1 + b_gate * (1 - b_sigmoid)), mask=mask)


def gated_forward(gate: Tensor, x: Tensor, addend: Tensor | None) -> Tensor:
    """As `gated_forward` of the backend torch."""
    gate, x = gate.contiguous(), x.contiguous()
    addend = None if addend is None else addend.contiguous()
    y = torch.empty_like(gate)
    if y.numel():
        grid = (triton.cdiv(y.numel(), BLOCK),)
        gated_forward_kernel[grid](gate, x, addend, y, y.numel(), BLOCK=BLOCK, num_warps=NUM_WARPS)
    return y


def gated_backward(dy: Tensor, gate: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """As `gated_backward` of the backend torch."""
    dy, gate, x = dy.contiguous(), gate.contiguous(), x.contiguous()
    dgate, dx = torch.empty_like(gate), torch.empty_like(x)
    if dy.numel():
        grid = (triton.cdiv(dy.numel(), BLOCK),)
        gated_backward_kernel[grid](dy, gate, x, dgate, dx, dy.numel(), BLOCK=BLOCK, num_warps=NUM_WARPS)
    return dgate, dx
