"""Every way in which attention's kernels are launched at the sizes that matter."""

from __future__ import annotations

import torch

from gecko_lab.kernels.attention.triton_launches import Launch, Problem
from gecko_lab.kernels.attention.triton_products import columns_kernel, rows_kernel
from gecko_lab.kernels.attention.triton_weights import log_sum_exp_kernel, row_dot_kernel, weights_kernel
from gecko_lab.kernels.compilation import Compilation

DTYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
STATISTICS = ("log_sum_exp", "delta")
DOCUMENTS = ("document_first", "document_last")
MULTIPLES = ("length", "num_keys", "row_begin", "row_end", "width")
TENSORS = ("q", "k", "v", "x", "y", "dy", "out", "weights", "dscores")


def _problems(dtype: torch.dtype) -> dict[str, Problem]:
    """7B; a small model; heads that share keys under full attention."""
    return {
        "7b": Problem(dtype, "sliding_chunk", 2048, 4, 4, 256, 2048),
        "small": Problem(dtype, "sliding_chunk", 512, 2, 2, 48, 384),
        "full": Problem(dtype, "full", 0, 8, 2, 64, 64),
    }


def _compilation(
    name: str, kernel: object, launch: Launch, dtype: torch.dtype, missing: tuple[str, ...]
) -> Compilation:
    """With pointers for all tensors but those that are `missing`, and 32-bit integers for the rest."""
    signature: dict[str, str] = {}
    for argument in kernel.arg_names:  # type: ignore[attr-defined]
        if argument in launch.constants or argument in missing:
            continue
        if argument in STATISTICS or (argument == "out" and launch.constants.get("ACCUMULATE")):
            signature[argument] = "*fp32"
        elif argument in DOCUMENTS:
            signature[argument] = "*i32"
        else:
            signature[argument] = f"*{DTYPES[dtype]}" if argument in TENSORS else "i32"
    constants = {**launch.constants, **dict.fromkeys(missing)}
    multiples = tuple(argument for argument in MULTIPLES if argument in signature)
    return Compilation(
        name, kernel, signature, constants, launch.num_warps, launch.num_stages, multiples_of_16=multiples
    )


def _compilations(dtype: torch.dtype, size: str, problem: Problem) -> list[Compilation]:
    accumulate = problem.pattern == "full"
    missing = () if size == "small" else DOCUMENTS  # with documents once: they are a load more
    gradients = ("v", "dy", "delta", "dscores")
    launches: list[tuple[str, object, Launch, tuple[str, ...]]] = [
        ("log-sum-exp", log_sum_exp_kernel, problem.log_sum_exp(), ()),
        ("row dot", row_dot_kernel, problem.row_dot(), ()),
        ("weights forward", weights_kernel, problem.weights(), gradients),
        ("weights backward", weights_kernel, problem.weights(), ()),
    ]
    for what, dim in (("keys", problem.key_dim), ("values", problem.value_dim)):
        launches.append((f"rows of {what}", rows_kernel, problem.rows(dim), ()))
        launches.append((f"columns of {what}", columns_kernel, problem.columns(dim, accumulate=accumulate), ()))
    compilations = []
    for what, kernel, launch, without in launches:
        absent = tuple(name for name in (*missing, *without) if name in kernel.arg_names)  # type: ignore[attr-defined]
        name = f"attention {what} {DTYPES[dtype]} {size}"
        compilations.append(_compilation(name, kernel, launch, dtype, absent))
    return compilations


COMPILATIONS: tuple[Compilation, ...] = tuple(
    compilation
    for dtype in DTYPES
    for size, problem in _problems(dtype).items()
    for compilation in _compilations(dtype, size, problem)
)
