"""How the kernels are launched, for compiling them without a GPU."""

from __future__ import annotations

from typing import Any

import torch

from gecko_lab.kernels.compilation import Compilation
from gecko_lab.kernels.working_memory import (
    triton_gradients,
    triton_products,
    triton_scan,
    triton_scan_backward,
    triton_softmax,
)
from gecko_lab.kernels.working_memory.inputs import Shape
from gecko_lab.kernels.working_memory.triton_launch import Launch, choose_launches, product_options

_TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_SHAPES = {"7B": Shape(1, 32768, 4, 256, 2048, 2048), "small": Shape(8, 2048, 4, 48, 192, 512)}
_KERNELS: dict[str, Any] = {
    "time_log_norm": triton_softmax.time_log_norm_kernel,
    "softmax": triton_softmax.softmax_kernel,
    "over_time": triton_products.over_time_kernel,
    "over_features": triton_products.over_features_kernel,
    "d_features": triton_products.d_features_kernel,
    "softmax_gradient": triton_gradients.softmax_gradient_kernel,
    "dk": triton_gradients.dk_kernel,
    "normaliser": triton_scan.normaliser_kernel,
    "scan": triton_scan.scan_kernel,
    "scan_backward": triton_scan_backward.scan_backward_kernel,
    "normaliser_backward": triton_scan_backward.normaliser_backward_kernel,
}
_FLOAT32 = {
    "time_log_norm": ("log_norm",),
    "softmax": ("log_norm",),
    "over_time": ("out",),
    "over_features": (),
    "d_features": (),
    "softmax_gradient": (),
    "dk": ("log_norm", "correction"),
    "normaliser": ("log_norm", "next_log_norm", "log_norms"),
    "scan": ("values", "memory", "next_memory", "next_log_norm", "log_norms", "last_memory", "last_next_memory"),
    "scan_backward": (
        "next_log_norm",
        "log_norms",
        "d_read",
        "d_last_memory",
        "d_last_next_memory",
        "row_sums",
        "d_next_memory",
    ),
    "normaliser_backward": (
        "next_log_norm",
        "log_norms",
        "row_sums",
        "d_log_norms",
        "correction",
        "d_next_log_norm",
    ),
}
"""Pointers to float32 whatever the dtype of the operands."""
_MASKS = ("keep", "holds", "same")
_SIZES = ("N", "T", "H", "S", "V", "first", "last", "num_v")
_FLAGS = ("HAS_KEEP", "HAS_SAME", "HAS_FINAL", "DELTA_RULE", "OVER_TIME", "OVER_FEATURES")


def _compilation(
    name: str, launch: Launch, dtype: torch.dtype, shape: str, targets: tuple[str, ...] | None = None
) -> Compilation:
    """A kernel with everything that it can be asked for: masks, the delta rule, gradients of final states."""
    kernel, signature, constants = _KERNELS[name], {}, {**launch.blocks}
    options = product_options(dtype)
    for argument in kernel.arg_names:
        if argument in _FLAGS:
            constants[argument] = True
        elif argument in options:
            constants[argument] = options[argument]
        elif argument in _SIZES or argument.startswith("stride_"):
            signature[argument] = "i32"
        elif argument == "scale":
            signature[argument] = "fp32"
        elif argument in _MASKS:
            signature[argument] = "*i1"
        elif argument not in constants:
            signature[argument] = "*fp32" if argument in _FLOAT32[name] else f"*{_TYPES[dtype]}"
    multiples = [x for x in signature if x in ("T", "S", "V") or x.startswith("stride_")]
    return Compilation(
        name=f"working memory, {name} {_TYPES[dtype]}, {shape}",
        kernel=kernel,
        signature=signature,
        constants=constants,
        num_warps=launch.num_warps,
        num_stages=launch.num_stages,
        multiples_of_16=tuple(multiples),
        targets=targets,
    )


def _compilations() -> tuple[Compilation, ...]:
    found = []
    for dtype in _TYPES:
        for name, shape in _SHAPES.items():
            sizes = shape.chunk_size, shape.S, shape.V
            for amd, targets in ((False, ("sm_80", "sm_90")), (True, ("gfx942",))):
                launches = choose_launches(*sizes, dtype, amd=amd)._asdict()
                found += [_compilation(kernel, launch, dtype, name, targets) for kernel, launch in launches.items()]
    return tuple(found)


COMPILATIONS = _compilations() if hasattr(triton_scan.scan_kernel, "arg_names") else ()
