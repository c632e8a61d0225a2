"""Peak memory above what stands before: of the process on CPU, of PyTorch's allocator on CUDA.

On CPU each measurement runs in a process of its own, forked from one that has loaded torch and nothing else: there the
kernel's count of resident pages is of it alone, and holds what no allocator hook sees (the workspaces of
matrix products and transforms). What is freed goes back to the system at once: how much the C library would rather
keep depends on the order of all sizes asked for before, and can be more than half of what is in use. Linux counts
pages in batches for each processor, of 128 KiB or more: a peak of a few hundred KiB may be read as none.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from gecko_lab.allocator import return_freed_memory
from gecko_lab.bench.cases import Scale, load_case
from gecko_lab.bench.timing import passes
from gecko_lab.kernels.case import Case, Inputs, Problem

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_PRELOAD = ["gecko_lab.bench.memory", "torch._dynamo"]  # the second is loaded by the first call of any custom operation
_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
KNOWN = _RESET.exists()
"""Whether the system tells a process its peak and lets it begin a new one: Linux."""


class Task(NamedTuple):
    """Which contender of which problem; only names, so that another process can be told."""

    case: str
    size: Scale
    problem: int
    contender: str
    dtype: torch.dtype
    device: torch.device
    threads: int


Peak = dict[str, int | None]
"""Bytes by pass; None where the system does not tell."""


def measure(task: Task) -> Peak:
    """Peak bytes above the inputs of a contender's passes on CPU: what comes out, is kept between, or is temporary."""
    return in_new_process(measure_here, task)


def measure_here(task: Task) -> Peak:
    """The same in this process: what it freed earlier and still holds can hide part of the peaks."""
    torch.set_num_threads(task.threads)
    case, problems = load_problems(task.case, task.size)
    problem = problems[task.problem]
    contender = next(one for one in case.contenders(problem) if one.name == task.contender)

    def inputs(shape: object) -> Inputs:
        return {name: x.to(task.device) for name, x in case.inputs(shape, task.dtype).items()}

    for run in passes(contender, inputs(case.check_shape), case.check_shape).values():
        run()  # loads the libraries' code, which would be counted
    whole = passes(contender, inputs(problem.shape), problem.shape)
    return {name: peak_of(run, task.device) for name, run in whole.items()}


def load_problems(name: str, size: Scale) -> tuple[Case[Any], tuple[Problem[Any], ...]]:
    """The case of an operation and its problems of a size."""
    if size == "7b":
        from gecko_lab.bench.large_cases import large_case  # imports every operation

        case = large_case(name)
        return case, case.problems["full"]
    case = load_case(name)
    return case, case.problems[size]


def in_new_process(function: Callable[[Argument], Result], argument: Argument) -> Result:
    """Call a function, both picklable, where nothing but torch is loaded.

    Raises:
        MemoryError: the process was killed, as the system does with one that takes too much memory.
    """
    # Not a plain fork, which would carry this process's pages and threads along, nor a spawn, which loads torch anew.
    context = multiprocessing.get_context("forkserver" if KNOWN else "spawn")
    if KNOWN:
        context.set_forkserver_preload(_PRELOAD)
    try:
        with ProcessPoolExecutor(1, mp_context=context, initializer=_prepare) as pool:
            return pool.submit(function, argument).result()
    except BrokenProcessPool:
        raise MemoryError("the process was killed: there is probably not enough memory") from None


def _prepare() -> None:
    """Let the system kill this process rather than another one when memory runs out, and give back what is freed."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    return_freed_memory()


def peak_of(run: Callable[[], None], device: torch.device) -> int | None:
    """Most bytes in use during a run above those in use before it; None where the system does not tell."""
    before = _reset(device)
    run()
    after = _peak(device)
    return None if before is None or after is None else max(after - before, 0)


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
