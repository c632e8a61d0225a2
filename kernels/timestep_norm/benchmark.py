"""What timestep normalisation by a scan is measured against."""

import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.timestep_norm import timestep_norm
from gecko_lab.kernels.timestep_norm.inputs import Shape, timestep_norm_inputs


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    drawn = timestep_norm_inputs(*shape, dtype=dtype)
    return {"x": drawn.x, "scale": drawn.scale, "bias": drawn.bias}


def _scan(inputs: Inputs, shape: Shape) -> Tensor:
    x, scale, bias = inputs.values()
    return timestep_norm(x, scale, bias, num_groups=shape.num_groups, backend="auto")[0]


def _time_loop(inputs: Inputs, shape: Shape) -> Tensor:
    x, scale, bias = inputs.values()
    return timestep_norm(x, scale, bias, num_groups=shape.num_groups, backend="reference")[0]


def _layer_norm(inputs: Inputs, shape: Shape) -> Tensor:
    x, scale, bias = inputs.values()
    return F.layer_norm(x, (shape.num_features,), scale.to(x.dtype), bias.to(x.dtype))


REFERENCE = Contender("time loop", _time_loop)
LAYER_NORM = Contender("layer_norm", _layer_norm, same=False)
CASE = Case(
    title="timestep decay normalisation",
    shape_text="[{batch}, {length}, {num_features}], {num_groups} groups",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("scan", _scan),
    check_shape=Shape(2, 131, 24, 3),
    problems={
        "small": (Problem(Shape(2, 256, 512, 8), (LAYER_NORM, REFERENCE)),),
        # The backward of a loop over time is quadratic in the length: it is shown where it is bearable.
        "full": (
            Problem(Shape(2, 4096, 768, 32), (LAYER_NORM,)),
            Problem(Shape(2, 512, 768, 32), (LAYER_NORM, REFERENCE)),
        ),
    },
)
