"""What the C library does with memory that was freed: glibc's malloc, which PyTorch takes its memory from on a CPU.

Left alone it returns every large block to the system, which hands it out again page by page, filled with zeros: a
quarter of the time of a training step with many activations. Elsewhere than with glibc these functions do nothing, nor
where the user has chosen otherwise (an environment variable `MALLOC_…` or `GLIBC_TUNABLES`).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from pathlib import Path

# of glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_FIRST_THRESHOLD = 128 << 10  # what glibc begins with


def keep_freed_memory() -> None:
    """Use freed memory again instead of returning it: for training on a CPU.

    The process keeps its peak, which blocks that lie in each other's way raise: by a tenth from the first to the third
    step of gecko 15m at 16,384 tokens, by more where a program has hardly anything but a few large blocks.
    """
    _set({_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _ARENA_MAX: 1})


def return_freed_memory() -> None:
    """Return freed memory at once, so that what is resident is what is in use: for measuring it."""
    _set({_TRIM_THRESHOLD: _FIRST_THRESHOLD, _MMAP_THRESHOLD: _FIRST_THRESHOLD})  # which end that both grow


def make_room() -> None:
    """Return what was freed, once, if the system has less left than this process holds: before another large task."""
    if not _is_ours():
        return
    try:
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        available = int(meminfo["MemAvailable"].split()[0]) << 10
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if available < resident:
            ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, KeyError):  # a system that does not say
        return


def _is_ours() -> bool:
    """Whether this is glibc, and the user has not chosen how it works."""
    chosen = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    return not chosen and platform.libc_ver()[0] == "glibc"


def _set(options: dict[int, int]) -> None:
    if not _is_ours():
        return
    with contextlib.suppress(OSError, AttributeError):
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)
