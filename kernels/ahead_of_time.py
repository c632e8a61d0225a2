"""Compile Triton kernels for GPUs that are not here, and read from the binaries what they need."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gecko_lab.kernels.compilation import Compilation


@dataclass(frozen=True)
class Target:
    """A kind of GPU.

    Attributes:
        backend: Triton's name of its maker's compiler.
        architecture: as that compiler calls it.
        warp_size: threads of a warp.
        shared_limit: bytes of shared memory that one block can have.
    """

    backend: str
    architecture: int | str
    warp_size: int
    shared_limit: int


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 * 1024),  # A100
    "sm_90": Target("cuda", 90, 32, 227 * 1024),  # H100, H200
    "gfx942": Target("hip", "gfx942", 64, 64 * 1024),  # MI300
}


@dataclass(frozen=True)
class Usage:
    """What a compiled kernel needs.

    Attributes:
        registers: vector registers of a thread.
        spilled_bytes: what a thread keeps in memory because registers do not hold it: spills and local arrays.
        shared_bytes: shared memory of a block.
    """

    registers: int
    spilled_bytes: int
    shared_bytes: int

    def faults(self, target: Target) -> list[str]:
        """Why the kernel must not be launched so; empty where all is well."""
        found = []
        if self.spilled_bytes:
            found.append(f"spills {self.spilled_bytes} bytes a thread")
        if self.shared_bytes > target.shared_limit:
            found.append(f"needs {self.shared_bytes:,} bytes of shared memory, there are {target.shared_limit:,}")
        return found


def measure(compilation: Compilation, target: Target) -> Usage:
    """Compile for a target, which need not be here.

    Raises:
        ValueError: Triton interprets in this process, or the compilation names other arguments than its kernel has.
        Exception: whatever Triton raises for a kernel that does not compile.
    """
    if triton.knobs.runtime.interpret or not hasattr(compilation.kernel, "arg_names"):
        raise ValueError("Triton interprets kernels in this process (TRITON_INTERPRET is set) and so cannot compile")
    compiled = triton.compile(
        _source(compilation),
        target=GPUTarget(target.backend, target.architecture, target.warp_size),
        options={"num_warps": compilation.num_warps, "num_stages": compilation.num_stages},
    )
    shared = int(compiled.metadata.shared)
    if target.backend == "cuda":
        return _read_resource_usage(_resource_usage(compiled.asm["cubin"]), shared)
    return _read_metadata(compiled.asm["amdgcn"], shared)


def _source(compilation: Compilation) -> ASTSource:
    names: list[str] = compilation.kernel.arg_names
    given = [*compilation.signature, *compilation.constants]
    if sorted(given) != sorted(names):
        raise ValueError(
            f"{compilation.name}: the kernel's arguments are {', '.join(names)}, "
            f"signature and constants name {', '.join(given)}"
        )
    divisible = [name for name, kind in compilation.signature.items() if kind.startswith("*")]
    return ASTSource(
        fn=compilation.kernel,
        signature={name: compilation.signature.get(name, "constexpr") for name in names},
        constexprs=dict(compilation.constants),
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in (*divisible, *compilation.multiples_of_16)},
    )


def _resource_usage(binary: bytes) -> str:
    """What NVIDIA's `cuobjdump`, which comes with Triton, says of a binary."""
    program: Any = triton.knobs.nvidia.cuobjdump
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(binary)
        command = [program.path, "--dump-resource-usage", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _read_resource_usage(text: str, shared: int) -> Usage:
    """`REG:32 STACK:0 SHARED:0 LOCAL:0`; shared memory that is allocated at the launch is not in the binary."""
    found = dict(re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text))
    return Usage(int(found["REG"]), int(found["STACK"]) + int(found["LOCAL"]), shared + int(found["SHARED"]))


def _read_metadata(assembly: str, shared: int) -> Usage:
    """`.vgpr_count: 32` and its neighbours, at the end of an AMD kernel's assembly; registers have four bytes."""
    found = {name: int(value) for name, value in re.findall(r"^\s*-?\s*\.(\w+):\s+(\d+)$", assembly, re.MULTILINE)}
    private = max(found["private_segment_fixed_size"], 4 * found["vgpr_spill_count"])
    shared = max(shared, found["group_segment_fixed_size"])
    return Usage(found["vgpr_count"], private + 4 * found["sgpr_spill_count"], shared)
