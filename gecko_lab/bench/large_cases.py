"""The operations at the shapes of a 7B network, where Triton's kernels are ours: what a GPU is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from gecko_lab.bench.cases import load_case
from gecko_lab.kernels.attention import attention
from gecko_lab.kernels.attention.inputs import Shape as AttentionShape
from gecko_lab.kernels.case import Case, Contender, Inputs, Problem
from gecko_lab.kernels.cema import cema
from gecko_lab.kernels.cema.inputs import Shape as AverageShape
from gecko_lab.kernels.gated.inputs import Shape as GateShape
from gecko_lab.kernels.grouped_norm.inputs import Shape as GroupedNormShape
from gecko_lab.kernels.head_norm.inputs import Shape as HeadNormShape
from gecko_lab.kernels.linear_cross_entropy.inputs import Shape as LossShape
from gecko_lab.kernels.timestep_norm import timestep_norm
from gecko_lab.kernels.timestep_norm.inputs import Shape as NormShape
from gecko_lab.kernels.working_memory import working_memory
from gecko_lab.kernels.working_memory.inputs import Shape as MemoryShape

_LENGTH = 32_768
_WIDEST_HEAD = 256
"""Values that PyTorch's fused attention takes in one call."""


def large_case_names() -> list[str]:
    """All of them, in alphabetical order."""
    return sorted(_CASES)


def large_case(name: str) -> Case[Any]:
    """The case of an operation whose problems of the size `full` have the shapes of a 7B network."""
    return _CASES[name]()


def _with_backends(
    name: str, shape: Any, check_shape: Any, run: Callable[..., Tensor], *others: Contender[Any]
) -> Case[Any]:
    """The case of a folder, computed by Triton, beside the PyTorch path and what one would take otherwise."""
    ours, pytorch = (Contender(title, partial(run, backend=title.lower())) for title in ("Triton", "torch"))
    problem = Problem(shape, (pytorch, *others))
    return replace(load_case(name), ours=ours, check_shape=check_shape, problems={"full": (problem,)})


def _of_shapes(name: str, shapes: Sequence[Any], check_shape: Any = None) -> Case[Any]:
    """The case of a folder with its own contenders; ours takes the best backend by itself."""
    case = load_case(name)
    alternatives = case.problems["small"][0].alternatives
    problems = tuple(Problem(shape, alternatives) for shape in shapes)
    return replace(case, check_shape=check_shape or case.check_shape, problems={"full": problems})


def _cema(inputs: Inputs, shape: AverageShape, backend: str) -> Tensor:
    return cema(*inputs.values(), backend=backend)[0]


def _timestep_norm(inputs: Inputs, shape: NormShape, backend: Any) -> Tensor:
    x, scale, bias = inputs.values()
    return timestep_norm(x, scale, bias, num_groups=shape.num_groups, backend=backend)[0]


def _attention(inputs: Inputs, shape: AttentionShape, backend: Any) -> Tensor:
    return attention(*inputs.values(), pattern="sliding_chunk", size=shape.chunk_size, backend=backend)


def _working_memory(inputs: Inputs, shape: MemoryShape, backend: Any) -> Tensor:
    q, k, v = inputs.values()
    return working_memory(q, k, v, chunk_size=shape.chunk_size, backend=backend)[0]


def _attention_by_chunks(inputs: Inputs, shape: AttentionShape) -> Tensor:
    """PyTorch's fused attention, exact: a chunk's queries to the keys of it and the one before, 256 values a call."""
    q, k, v = (x.transpose(1, 2) for x in inputs.values())  # [B, H, L, ...]
    size, chunks = shape.chunk_size, []
    for start in range(0, shape.length, size):
        keys = slice(max(start - size, 0), start + size)
        queries, seen = q[:, :, start : start + size], k[:, :, keys]
        bias = causal_lower_right(queries.shape[2], seen.shape[2])
        several = v[:, :, keys].split(_WIDEST_HEAD, dim=-1)
        parts = [scaled_dot_product_attention(queries, seen, part, attn_mask=bias, scale=1.0) for part in several]
        chunks.append(torch.cat(parts, dim=-1))
    return torch.cat(chunks, dim=2).transpose(1, 2)


_CASES: dict[str, Callable[[], Case[Any]]] = {
    "attention": lambda: _with_backends(
        "attention",
        AttentionShape(1, _LENGTH, 4, 256, 2048, 2048),
        AttentionShape(1, 300, 2, 256, 512, 128),
        _attention,
        Contender("SDPA by chunks", _attention_by_chunks),
    ),
    "cema": lambda: _with_backends("cema", AverageShape(1, _LENGTH, 4096, 16), AverageShape(2, 301, 96, 16), _cema),
    "gated": lambda: _of_shapes("gated", [GateShape(1, _LENGTH, 8192)]),
    "grouped_norm": lambda: _of_shapes(
        "grouped_norm", [GroupedNormShape(1, _LENGTH, 4096, 1, centred) for centred in (False, True)]
    ),
    "head_norm": lambda: _of_shapes("head_norm", [HeadNormShape(1, _LENGTH, 4, 256)]),
    "linear_cross_entropy": lambda: _of_shapes(
        "linear_cross_entropy", [LossShape(_LENGTH, 4096, 32_000, 4096)], LossShape(1000, 256, 4000, 256)
    ),
    "timestep_norm": lambda: _with_backends(
        "timestep_norm", NormShape(1, _LENGTH, 4096, 64), NormShape(2, 257, 128, 2), _timestep_norm
    ),
    "working_memory": lambda: _with_backends(
        "working_memory",
        MemoryShape(1, _LENGTH, 4, 256, 2048, 2048),
        MemoryShape(1, 700, 2, 256, 512, 128),
        _working_memory,
    ),
}
