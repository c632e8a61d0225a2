"""What the linear cross-entropy in pieces is measured against; the point is memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.kernels.linear_cross_entropy.inputs import Shape, make_inputs


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    return make_inputs(shape, dtype=dtype)._asdict()


def _pieces(inputs: Inputs, shape: Shape) -> Tensor:
    return linear_cross_entropy(*inputs.values(), rows=shape.rows)


def _plain(inputs: Inputs, shape: Shape) -> Tensor:
    logits = F.linear(inputs["hidden"], inputs["weight"])
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), inputs["targets"])


REFERENCE = Contender("all logits at once", _plain)
CASE = Case(
    title="linear cross-entropy",
    shape_text="[{num_tokens}, {num_features}], {num_classes} classes, {rows} rows a piece",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("in pieces", _pieces),
    check_shape=Shape(59, 12, 31, 16),
    problems={
        "small": (Problem(Shape(1024, 64, 1024, 128), (REFERENCE,)),),
        "full": (Problem(Shape(4096, 384, 16384, 512), (REFERENCE,)),),
    },
)
