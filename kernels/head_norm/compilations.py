"""How the kernels are launched, for compiling them without a GPU."""

from gecko_lab.kernels.compilation import Compilation
from gecko_lab.kernels.head_norm.triton import choose_launch, head_norm_backward_kernel, head_norm_forward_kernel

_POINTERS = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}
_SHAPES = ((256, 4, True), (96, 4, True), (64, 2, False))
"""Key dim, affine maps and whether there are rotary positions: 7B, small, without memory and positions."""


def _compilations(dtype: str, key_dim: int, num_maps: int, rotated: bool) -> tuple[Compilation, Compilation]:
    launch = choose_launch(key_dim)
    activations = _POINTERS[dtype]
    constants = {
        "S": key_dim,
        "M": num_maps,
        "ROTATED": rotated,
        "BLOCK_S": launch.block_s,
        "BLOCK_T": launch.block_t,
    }
    signature = {"z": activations, "gamma": "*fp32"}
    signature |= dict.fromkeys(("num_rows", "length", "num_heads", "num_rope_heads", "tiles"), "i32") | {"eps": "fp32"}
    given = {f"{i}": i < num_maps for i in range(4)}
    absent = {} if rotated else {"cos": None, "sin": None}
    tables = {"cos": "*fp32", "sin": "*fp32"} if rotated else {}

    def of_maps(prefix: str) -> tuple[dict[str, str], dict[str, None]]:
        """The types of the maps' tensors that there are, and constants for those that there are not."""
        types = {f"{prefix}_{i}": activations for i, there in given.items() if there}
        return types, {f"{prefix}_{i}": None for i, there in given.items() if not there}

    outputs, no_outputs = of_maps("y")
    gradients, no_gradients = of_maps("dy")
    shape = f"{dtype}, S {key_dim}, {num_maps} maps{', rotated' if rotated else ''}"
    return (
        Compilation(
            name=f"head_norm forward {shape}",
            kernel=head_norm_forward_kernel,
            signature=signature | {"beta": "*fp32"} | tables | outputs,
            constants=constants | absent | no_outputs,
            num_warps=launch.num_warps,
        ),
        Compilation(
            name=f"head_norm backward {shape}",
            kernel=head_norm_backward_kernel,
            signature=signature | {"dz": activations, "sums": "*fp32"} | tables | gradients,
            constants=constants | absent | no_gradients,
            num_warps=launch.num_warps,
        ),
    )


COMPILATIONS = tuple(one for dtype in _POINTERS for shape in _SHAPES for one in _compilations(dtype, *shape))
