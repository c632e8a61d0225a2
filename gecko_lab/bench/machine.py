"""What a measurement was made on, and how fast that is at best."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from gecko_lab.bench.timing import sample
from gecko_lab.kernels.case import Size
from gecko_lab.machine import commit, processor_name

_REPEATS = 5


def describe(device: torch.device, dtype: torch.dtype, size: Size) -> dict[str, Any]:
    """Names, versions and measured ceilings, for JSON.

    Args:
        device: its name, and the one whose ceilings are measured.
        dtype: of the matrix product.
        size: how large the measurements are.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": load,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
        "copy_bytes_per_second": copy_bandwidth(device, size),
        "matmul_flops_per_second": matmul_peak(device, dtype, size),
    }


def copy_bandwidth(device: torch.device, size: Size) -> float:
    """Bytes read and written a second by a copy that no cache holds; the best of several."""
    num_bytes = (64 if size == "small" else 256) << (20 if device.type == "cpu" else 22)
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return 2 * num_bytes / min(sample(copy, 1, device) for _ in range(_REPEATS))


def matmul_peak(device: torch.device, dtype: torch.dtype, size: Size) -> float:
    """Floating-point operations a second (a multiply-add is two) of a square matrix product; the best of several."""
    width = (1024 if size == "small" else 2048) * (1 if device.type == "cpu" else 4)
    # Of random numbers: a GPU multiplies ones faster, because fewer wires switch and it may clock higher.
    generator = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn(width, width, generator=generator, device=device).to(dtype) for _ in range(2))
    target = torch.empty_like(left)

    def multiply() -> None:
        torch.mm(left, right, out=target)

    return 2 * width**3 / min(sample(multiply, 1, device) for _ in range(_REPEATS))
