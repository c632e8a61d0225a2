"""What the head normalisation in one pass is measured against."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.head_norm import head_norm
from gecko_lab.kernels.head_norm.inputs import Shape, make_angles, make_inputs
from gecko_lab.kernels.head_norm.op import Backend
from gecko_lab.kernels.rotary import rotary


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return make_inputs(shape, dtype=dtype)._asdict()


def _joined(inputs: Inputs, shape: Shape, backend: Backend) -> Tensor:
    """All outputs in one tensor, which every contender has to pay for."""
    z, gamma, beta = inputs.values()
    cos, sin = make_angles(shape, z.device)
    return torch.cat(head_norm(z, gamma, beta, cos, sin, num_heads=shape.num_heads, backend=backend))


def _one_pass(inputs: Inputs, shape: Shape) -> Tensor:
    return _joined(inputs, shape, "auto")


def _formulas(inputs: Inputs, shape: Shape) -> Tensor:
    return _joined(inputs, shape, "reference")


def _operations(inputs: Inputs, shape: Shape) -> Tensor:
    z, gamma, beta = inputs.values()
    heads = z.to(gamma.dtype).unflatten(-1, (shape.num_heads, -1))
    normed = F.rms_norm(heads, heads.shape[-1:], eps=1e-5).flatten(-2)
    scale = (gamma + 1) / math.sqrt(shape.key_dim)
    mapped = [torch.addcmul(b, normed, a).view_as(heads) for a, b in zip(scale, beta, strict=True)]
    angles = make_angles(shape, z.device)
    mapped[:2] = [rotary(x, *angles, backend="reference") for x in mapped[:2]]
    return torch.cat(mapped).to(z.dtype)


REFERENCE = Contender("formulas", _formulas)
OPERATIONS = Contender("F.rms_norm, addcmul", _operations)
CASE = Case(
    title="head norm, affine maps, rotary positions",
    shape_text="[{batch}, {length}, {num_heads}], S {key_dim}, {num_maps} maps",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("one pass", _one_pass),
    check_shape=Shape(2, 59, 3, 20),
    problems={
        "small": (Problem(Shape(1, 512, 2, 32), (OPERATIONS, REFERENCE)),),
        "full": (Problem(Shape(2, 2048, 2, 96), (OPERATIONS, REFERENCE)),),
    },
)
