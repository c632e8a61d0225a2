"""What the vectorised working memory is measured against."""

from __future__ import annotations

import torch
from torch import Tensor

from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.working_memory import baselines, working_memory
from gecko_lab.kernels.working_memory.inputs import Shape, make_inputs


def _inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    drawn = make_inputs(shape, dtype=dtype)
    return {"q": drawn.q, "k": drawn.k, "v": drawn.v}


def _vectorised(inputs: Inputs, shape: Shape) -> Tensor:
    q, k, v = inputs.values()
    return working_memory(q, k, v, chunk_size=shape.chunk_size, backend="torch")[0]


def _reference(inputs: Inputs, shape: Shape) -> Tensor:
    q, k, v = inputs.values()
    return working_memory(q, k, v, chunk_size=shape.chunk_size, backend="reference")[0]


def _authors_loop(inputs: Inputs, shape: Shape) -> Tensor:
    precise = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in inputs.values())
    return baselines.loop(*precise, chunk_size=shape.chunk_size).to(inputs["v"].dtype)


REFERENCE = Contender("reference, row by row", _reference)
ALTERNATIVES = (Contender("authors' chunk loop", _authors_loop), REFERENCE)
CASE = Case(
    title="adaptive working memory",
    shape_text="[{B}, {L}, {H}], S {S}, V {V}, chunk {chunk_size}",
    inputs=_inputs,
    reference=REFERENCE,
    ours=Contender("all chunks at once", _vectorised),
    check_shape=Shape(2, 59, 3, 5, 7, 8),
    problems={
        "small": (Problem(Shape(1, 1024, 2, 32, 64, 128), ALTERNATIVES),),
        "full": (Problem(Shape(2, 8192, 4, 64, 256, 512), ALTERNATIVES),),
    },
)
