"""How the kernels are launched, for compiling them without a GPU."""

from gecko_lab.kernels.compilation import Compilation
from gecko_lab.kernels.gated.triton import BLOCK, NUM_WARPS, gated_backward_kernel, gated_forward_kernel

_POINTERS = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}


def _compilations(dtype: str) -> tuple[Compilation, ...]:
    def compilation(direction: str, kernel: object, tensors: str, constants: dict[str, None]) -> Compilation:
        signature = dict.fromkeys(tensors.split(), _POINTERS[dtype]) | {"count": "i32"}
        return Compilation(f"gated {direction} {dtype}", kernel, signature, {"BLOCK": BLOCK} | constants, NUM_WARPS)

    return (
        compilation("forward", gated_forward_kernel, "gate x y", {"addend": None}),
        compilation("forward, addend,", gated_forward_kernel, "gate x addend y", {}),
        compilation("backward", gated_backward_kernel, "dy gate x dgate dx", {}),
    )


COMPILATIONS = tuple(one for dtype in _POINTERS for one in _compilations(dtype))
