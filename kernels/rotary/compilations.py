"""How the kernels are launched, for compiling them without a GPU."""

from gecko_lab.kernels.compilation import Compilation
from gecko_lab.kernels.rotary.triton import choose_launch, rotary_kernel

_POINTERS = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}


def _compilation(dtype: str, key_dim: int) -> Compilation:
    launch = choose_launch(key_dim)
    pointer = _POINTERS[dtype]
    return Compilation(
        name=f"rotary {dtype}, S {key_dim}",
        kernel=rotary_kernel,
        signature={
            "x": pointer,
            "cos": "*fp32",
            "sin": "*fp32",
            "y": pointer,
            "num_rows": "i32",
            "length": "i32",
            "num_heads": "i32",
            "num_rope_heads": "i32",
        },
        constants={"S": key_dim, "BLOCK_S": launch.block_s, "BLOCK_T": launch.block_t, "INVERSE": False},
        num_warps=launch.num_warps,
    )


COMPILATIONS = tuple(_compilation(dtype, key_dim) for dtype in _POINTERS for key_dim in (96, 256))
