"""How CEMA's kernels are launched, for compiling them without a GPU."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import triton.language as tl

from gecko_lab.kernels.cema.triton_gradients import (
    begun_correlations_kernel,
    correlations_kernel,
    edges_kernel,
    parameters_kernel,
)
from gecko_lab.kernels.cema.triton_launch import (
    PARAMETERS_FEATURES,
    RECURRENCE_FEATURES,
    STATES_FEATURES,
    TABLES_FEATURES,
    TABLES_WARPS,
    Launch,
    choose_launch,
)
from gecko_lab.kernels.cema.triton_outputs import outputs_kernel
from gecko_lab.kernels.cema.triton_powers import tables_kernel
from gecko_lab.kernels.cema.triton_recurrence import recurrence_gradients_kernel, recurrence_kernel
from gecko_lab.kernels.cema.triton_states import span_states_kernel, span_sums_kernel
from gecko_lab.kernels.compilation import Compilation

_DTYPES = {
    "bf16": (torch.bfloat16, tl.bfloat16),
    "fp16": (torch.float16, tl.float16),
    "fp32": (torch.float32, tl.float32),
}
_IN_DTYPE = ("x_ptr", "y_ptr", "dy_ptr", "dx_ptr", "powers_ptr", "derivatives_ptr", "outputs_ptr", "kernel_ptr")
_OTHER_POINTERS = {"q_ptr": "*fp64", "documents_ptr": "*i32", "num_documents_ptr": "*i32"}


def _compilation(name: str, dtype: str, kernel: Any, num_warps: int, **constants: Any) -> Compilation:
    """Types by the names of the arguments: pointers end in `_ptr`, constants are in capitals."""
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            continue
        pointer = f"*{dtype}" if argument in _IN_DTYPE else _OTHER_POINTERS.get(argument, "*fp32")
        signature[argument] = pointer if argument.endswith("_ptr") else "i32"
    return Compilation(
        name=f"cema {name} {dtype}",
        kernel=kernel,
        signature=signature,
        constants=constants,
        num_warps=num_warps,
        multiples_of_16=("num_features",),  # 7B: 4096, small: 384
    )


def _compilations(
    dtype: str, num_states: int, *, amd: bool, is_complex: bool, documents: bool
) -> Iterator[Compilation]:
    launch: Launch = choose_launch(_DTYPES[dtype][0], num_states, amd=amd)
    name = f"N {num_states}{'' if is_complex else ' real'}{' documents' if documents else ''}"
    shape: dict[str, Any] = {"COMPLEX": is_complex, "N": launch.num_states}
    without: dict[str, Any] = {} if documents else {"documents_ptr": None}
    without_within: dict[str, Any] = {} if documents else {"documents_ptr": None, "num_documents_ptr": None}
    blocks: dict[str, Any] = {
        "T": launch.block_length,
        "M": launch.num_columns,
        "DOT_DTYPE": _DTYPES[dtype][1],
        **shape,
    }
    precisions = ("ieee", "tf32") if dtype == "fp32" else ("ieee",)
    if documents:  # which these kernels know nothing of
        for given in ({}, {"derivatives_ptr": None}):
            constants = {"T": launch.block_length, "BLOCK_D": TABLES_FEATURES, **shape, **given}
            yield _compilation(
                f"tables {name}{' forward' * len(given)}", dtype, tables_kernel, TABLES_WARPS, **constants
            )
        constants = {"T": launch.block_length, "BLOCK_D": PARAMETERS_FEATURES, **shape}
        yield _compilation(f"parameters {name}", dtype, parameters_kernel, 4, **constants)
    constants = {"BLOCK_D": RECURRENCE_FEATURES, **shape, **without}
    yield _compilation(f"recurrence {name}", dtype, recurrence_kernel, 1, **constants)
    yield _compilation(f"recurrence gradients {name}", dtype, recurrence_gradients_kernel, 1, **constants)
    constants = {"M": launch.num_columns, "BLOCK_D": STATES_FEATURES, **shape, **without}
    yield _compilation(f"edges {name}", dtype, edges_kernel, 1, **constants)
    for reverse, direction in ((False, "forward"), (True, "backward")):
        constants = {"BLOCK_D": STATES_FEATURES, "REVERSE": reverse, "DERIVATIVES": reverse, **shape, **without}
        yield _compilation(f"span states {name} {direction}", dtype, span_states_kernel, 1, **constants)
        for precision in precisions:
            title = f"{name} {direction} {precision}"
            constants = {**blocks, "PRECISION": precision, "REVERSE": reverse, "BLOCK_D": launch.block_features}
            given = {} if reverse else {"derivatives_ptr": None}
            warps = launch.num_warps
            yield _compilation(f"span sums {title}", dtype, span_sums_kernel, warps, **constants, **given, **without)
            yield _compilation(f"outputs {title}", dtype, outputs_kernel, warps, **constants, **without_within)
    for precision in precisions:
        constants = {**blocks, "PRECISION": precision, "BLOCK_D": launch.gradient_features}
        title, warps = f"correlations {name} {precision}", launch.gradient_warps
        yield _compilation(title, dtype, correlations_kernel, warps, **constants, **without)
        if documents:
            del constants["COMPLEX"], constants["N"]
            yield _compilation(f"begun {title}", dtype, begun_correlations_kernel, warps, **constants)


# By dtype: with a phase, with documents. A kernel of complex numbers and documents holds most in registers.
_VARIANTS = {"bf16": ((True, True), (True, False), (False, True)), "fp16": ((True, True),), "fp32": ((True, True),)}
COMPILATIONS = tuple(
    replace(compilation, targets=targets)
    for dtype, variants in _VARIANTS.items()
    for amd, targets in ((False, ("sm_80", "sm_90")), (True, ("gfx942",)))
    for is_complex, documents in variants
    for compilation in _compilations(dtype, 16, amd=amd, is_complex=is_complex, documents=documents)
)
