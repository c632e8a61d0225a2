"""How the kernels are launched, for compiling them without a GPU."""

from __future__ import annotations

from collections.abc import Iterator

from gecko_lab.kernels.compilation import Compilation
from gecko_lab.kernels.timestep_norm.inputs import Shape
from gecko_lab.kernels.timestep_norm.triton import backward_constants, forward_constants
from gecko_lab.kernels.timestep_norm.triton_backward import (
    carry_gradients_kernel,
    gradient_sums_kernel,
    input_gradient_kernel,
    statistics_gradients_kernel,
)
from gecko_lab.kernels.timestep_norm.triton_forward import (
    carry_statistics_kernel,
    moments_kernel,
    normalise_kernel,
    running_statistics_kernel,
)

_SHAPES = {"7B": Shape(1, 32_768, 4096, 64), "small": Shape(2, 1021, 384, 6)}
_FORWARD = {
    "moments": moments_kernel,
    "carry": carry_statistics_kernel,
    "statistics": running_statistics_kernel,
    "normalise": normalise_kernel,
}
_BACKWARD = {
    "sums": gradient_sums_kernel,
    "carry": carry_gradients_kernel,
    "statistics": statistics_gradients_kernel,
    "input": input_gradient_kernel,
}
_TYPES = {
    "document_starts": "*u8",
    "chunk_counts": "*i32",
    "weights": "*fp64",
    **dict.fromkeys(("count", "carried_counts", "final_count"), "*i64"),
    **dict.fromkeys(("length", "num_chunks", "num_timesteps"), "i32"),
    **dict.fromkeys(("log_beta1", "log_beta2", "forget1", "forget2", "eps"), "fp32"),
}
"""Of arguments that are neither activations nor pointers to float32."""


def _compilation(
    part: str, backward: bool, dtype: str, size: str, cumulative: bool, with_documents: bool
) -> Compilation:
    kernel = (_BACKWARD if backward else _FORWARD)[part]
    choose = backward_constants if backward else forward_constants
    constants = dict(choose(_SHAPES[size], None if cumulative else (0.999, 0.9999))[part])
    num_warps = constants.pop("num_warps")
    types = {**_TYPES, **dict.fromkeys(("x", "y", "dy", "dx"), f"*{dtype}")}
    if not with_documents and "document_starts" in kernel.arg_names:
        constants["document_starts"] = None
    arguments = [argument for argument in kernel.arg_names if argument not in constants]
    return Compilation(
        name=f"timestep_norm {'backward' if backward else 'forward'} {part} {dtype} {size}"
        f"{', cumulative' if cumulative else ''}{', documents' if with_documents else ''}",
        kernel=kernel,
        signature={argument: types.get(argument, "*fp32") for argument in arguments},
        constants=constants,
        num_warps=num_warps,
    )


def _compilations() -> Iterator[Compilation]:
    for backward, kernels in ((False, _FORWARD), (True, _BACKWARD)):
        for part, kernel in kernels.items():
            dtypes = ("bf16", "fp16", "fp32") if "x" in kernel.arg_names else ("fp32",)
            for size in _SHAPES:
                for dtype in dtypes:
                    yield _compilation(part, backward, dtype, size, cumulative=False, with_documents=False)
                if "CUMULATIVE" in kernel.arg_names:
                    with_documents = "document_starts" in kernel.arg_names
                    yield _compilation(part, backward, dtypes[0], size, True, with_documents)


COMPILATIONS = tuple(_compilations())
