"""A Triton kernel with everything that decides what it compiles to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Compilation:
    """One way in which an operation launches a kernel; `COMPILATIONS` in `compilations.py` of its folder lists them.

    Attributes:
        name: operation, direction, dtype and shape in a few words.
        kernel: the `triton.jit` function.
        signature: Triton's type of every argument that is not a constant, by name: `*bf16`, `*fp32`, `i32`, `fp32`.
        constants: the values of the `tl.constexpr` arguments; None also for a pointer that is not given.
        num_warps: as launched.
        num_stages: as launched.
        multiples_of_16: integer arguments that are such in this launch, which Triton takes into account. It does so for
            pointers too, and PyTorch's are.
        targets: names of the only targets that it is launched on; all by default (see `ahead_of_time.TARGETS`).
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 2
    multiples_of_16: tuple[str, ...] = ()
    targets: tuple[str, ...] | None = None
