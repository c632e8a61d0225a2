"""Peak memory above the inputs: of the process on CPU, of PyTorch's allocator on CUDA.

On CPU each contender runs in a process of its own, forked from one that has loaded torch and nothing else: there the
kernel's count of resident pages is of this contender alone, and holds what no allocator hook sees (the workspaces of
matrix products and transforms).
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from gecko_lab.bench.cases import load_case
from gecko_lab.bench.timing import passes
from gecko_lab.kernels.case import Inputs, Size

_PRELOAD = ["gecko_lab.bench.memory", "torch._dynamo"]  # the second is loaded by the first call of any custom operation
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
KNOWN = _RESET.exists()
"""Whether the system tells a process its peak and lets it begin a new one: Linux."""


class Task(NamedTuple):
    """Which contender of which problem; only names, so that another process can be told."""

    case: str
    size: Size
    problem: int
    contender: str
    dtype: torch.dtype
    device: torch.device
    threads: int


Peak = dict[str, int | None]
"""Bytes by pass; None where the system does not tell."""


def measure(task: Task) -> Peak:
    """Peak bytes above the inputs of a contender's passes: outputs, gradients, what is kept between, temporaries."""
    if task.device.type == "cuda":
        return measure_here(task)
    # Not a plain fork, which would carry this process's pages and threads along, nor a spawn, which loads torch anew.
    context = multiprocessing.get_context("forkserver" if KNOWN else "spawn")
    if KNOWN:
        context.set_forkserver_preload(_PRELOAD)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure_here, task).result()


def measure_here(task: Task) -> Peak:
    """The same in this process: on CPU what it freed earlier and still holds can hide part of the peaks."""
    torch.set_num_threads(task.threads)
    case = load_case(task.case)
    problem = case.problems[task.size][task.problem]
    contender = next(one for one in case.contenders(problem) if one.name == task.contender)

    def inputs(shape: object) -> Inputs:
        return {name: x.to(task.device) for name, x in case.inputs(shape, task.dtype).items()}

    for run in passes(contender, inputs(case.check_shape), case.check_shape).values():
        run()  # loads the libraries' code, which would be counted
    whole = passes(contender, inputs(problem.shape), problem.shape)
    peaks: Peak = {}
    for name, run in whole.items():
        before = _reset(task.device)
        run()
        after = _peak(task.device)
        peaks[name] = None if before is None or after is None else max(after - before, 0)
    return peaks


def _reset(device: torch.device) -> int | None:
    """Give back what is free, begin a new peak, and return the bytes in use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    with contextlib.suppress(OSError, AttributeError):  # a C library without it keeps freed pages: peaks come out lower
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _peak(device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def _status(field: str) -> int | None:
    """A field of Linux's account of this process, in bytes."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
