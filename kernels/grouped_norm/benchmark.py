"""What grouped normalisation in one pass is measured against: PyTorch's own norms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.grouped_norm import grouped_norm
from gecko_lab.kernels.grouped_norm.inputs import Shape, make_inputs
from gecko_lab.kernels.grouped_norm.op import Backend


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return {name: x for name, x in make_inputs(shape, dtype=dtype)._asdict().items() if x is not None}


def _with_backend(inputs: Inputs, shape: Shape, backend: Backend) -> Tensor:
    return grouped_norm(*inputs.values(), num_groups=shape.num_groups, centred=shape.centred, backend=backend)


def _one_pass(inputs: Inputs, shape: Shape) -> Tensor:
    return _with_backend(inputs, shape, "auto")


def _formulas(inputs: Inputs, shape: Shape) -> Tensor:
    return _with_backend(inputs, shape, "reference")


def _operations(inputs: Inputs, shape: Shape) -> Tensor:
    x, weight, *bias = inputs.values()
    groups = x.to(weight.dtype).unflatten(-1, (shape.num_groups, -1))
    norm = F.layer_norm if shape.centred else F.rms_norm
    y = norm(groups, groups.shape[-1:], eps=1e-5).flatten(-2) * (1 + weight)
    return sum(bias, y).to(x.dtype)


REFERENCE = Contender("formulas", _formulas)
OPERATIONS = Contender("F.rms_norm, F.layer_norm", _operations)
CASE = Case(
    title="grouped norm",
    shape_text="[{batch}, {length}, {num_features}], {num_groups} groups, centred {centred}",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("one pass", _one_pass),
    check_shape=Shape(2, 139, 84, 3, True),
    problems={
        "small": (Problem(Shape(1, 512, 64, 1, False), (OPERATIONS,)),),
        "full": tuple(
            Problem(Shape(2, 2048, 384, num_groups, centred), (OPERATIONS,))
            for num_groups in (1, 8)
            for centred in (False, True)
        ),
    },
)
