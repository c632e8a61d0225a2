"""What sliding chunk attention by blocks is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from gecko_lab.kernels.attention import attention, baselines
from gecko_lab.kernels.attention.inputs import Shape, make_inputs
from gecko_lab.kernels.case import Case, Contender, Inputs, Problem


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return make_inputs(shape, dtype=dtype)._asdict()


def _tiles(inputs: Inputs, shape: Shape) -> Tensor:
    return attention(*inputs.values(), pattern="sliding_chunk", size=shape.chunk_size)


def _dense(inputs: Inputs, shape: Shape) -> Tensor:
    return attention(*inputs.values(), pattern="sliding_chunk", size=shape.chunk_size, backend="reference")


def _masked(inputs: Inputs, shape: Shape) -> Tensor:
    return baselines.masked(*inputs.values(), pattern="sliding_chunk", size=shape.chunk_size)


def _full(inputs: Inputs, shape: Shape) -> Tensor:
    return baselines.full(*inputs.values())


REFERENCE = Contender("dense softmax", _dense)
ALTERNATIVES = (Contender("SDPA, L×L mask", _masked), Contender("SDPA, all keys", _full, same=False), REFERENCE)
CASE = Case(
    title="sliding chunk attention",
    shape_text="[{batch}, {length}, {num_heads}], S {key_dim}, V {value_dim}, chunk {chunk_size}",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("tiles", _tiles),
    check_shape=Shape(2, 59, 3, 8, 12, 16),
    problems={
        "small": (Problem(Shape(1, 512, 2, 32, 64, 64), ALTERNATIVES),),
        "full": (Problem(Shape(1, 4096, 2, 96, 384, 512), ALTERNATIVES),),
    },
)
