"""What the gate in one pass is measured against."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.gated import gated
from gecko_lab.kernels.gated.inputs import Shape, make_inputs


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return make_inputs(shape, dtype=dtype)._asdict()


def _one_pass(inputs: Inputs, shape: Shape) -> Tensor:
    return gated(*inputs.values())


def _formula(inputs: Inputs, shape: Shape) -> Tensor:
    return gated(*inputs.values(), backend="reference")


def _operations(inputs: Inputs, shape: Shape) -> Tensor:
    gate, x, addend = inputs.values()
    return F.silu(gate) * x + addend


REFERENCE = Contender("formula", _formula)
OPERATIONS = Contender("F.silu, *, +", _operations)
CASE = Case(
    title="gate",
    shape_text="[{batch}, {length}, {num_features}]",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("one pass", _one_pass),
    check_shape=Shape(2, 59, 301),
    problems={
        "small": (Problem(Shape(1, 512, 64), (OPERATIONS,)),),
        "full": (Problem(Shape(2, 2048, 768), (OPERATIONS,)), Problem(Shape(8, 2048, 768), (OPERATIONS,))),
    },
)
