"""How the kernels are launched, for compiling them without a GPU."""

from gecko_lab.kernels.compilation import Compilation
from gecko_lab.kernels.grouped_norm.triton import (
    choose_launch,
    grouped_norm_backward_kernel,
    grouped_norm_forward_kernel,
)

_POINTERS = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}
_GROUP_SIZES = (4096, 384, 64)
"""7B and small in one group, 7B in 64 groups."""


def _compilations(dtype: str, group_size: int, centred: bool) -> tuple[Compilation, Compilation]:
    launch = choose_launch(group_size)
    pointer = _POINTERS[dtype]
    constants = {"K": group_size, "CENTRED": centred, "BLOCK_K": launch.block_k, "BLOCK_N": launch.block_n}
    signature = {"x": pointer, "weight": "*fp32"}
    signature |= dict.fromkeys(("num_rows", "num_groups", "tiles"), "i32") | {"eps": "fp32"}

    def of_bias(name: str) -> tuple[dict[str, str], dict[str, None]]:
        """Its type where there is one, and the constant where there is none."""
        return ({name: "*fp32"}, {}) if centred else ({}, {name: None})

    forward_bias, no_bias = of_bias("bias")
    backward_bias, no_dbias = of_bias("dbias")
    shape = f"{'layer' if centred else 'RMS'} {dtype}, K {group_size}"
    return (
        Compilation(
            name=f"grouped_norm forward {shape}",
            kernel=grouped_norm_forward_kernel,
            signature=signature | {"y": pointer} | forward_bias,
            constants=constants | no_bias,
            num_warps=launch.num_warps,
        ),
        Compilation(
            name=f"grouped_norm backward {shape}",
            kernel=grouped_norm_backward_kernel,
            signature=signature | {"dy": pointer, "dx": pointer, "dweight": "*fp32"} | backward_bias,
            constants=constants | no_dbias,
            num_warps=launch.num_warps,
        ),
    )


COMPILATIONS = tuple(
    one
    for dtype in _POINTERS
    for group_size in _GROUP_SIZES
    for centred in (False, True)
    for one in _compilations(dtype, group_size, centred)
)
