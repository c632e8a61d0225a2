"""Memory that was freed, in processes of their own."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
import torch
from gecko_lab import allocator
{call}
faults = []
for _ in range(30):  # glibc needs some before a block fits where one was freed
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = torch.ones(25_000_000)
    del x
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
pages = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
print(max(faults[20:]), min(faults[20:]), int(pages[0].split()[1]) // 1024)
"""

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")


def faults_and_size(call: str, **environment: str) -> tuple[int, int, int]:
    """The most and the fewest pages that the last runs asked for, and MiB that are resident afterwards."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | environment
    given |= {"OMP_NUM_THREADS": "1", "THP_MEM_ALLOC_ENABLE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(call=call)], env=given, capture_output=True, text=True, check=True
    )
    most, fewest, size = map(int, done.stdout.split())
    return most, fewest, size


@glibc
def test_kept_memory_is_used_again() -> None:
    most, _, kept = faults_and_size("allocator.keep_freed_memory()")
    _, fewest, returned = faults_and_size("allocator.return_freed_memory()")
    assert most < 100  # of 24,414 pages of 4 KiB
    assert fewest > 1000
    assert kept > returned + 90


@glibc
def test_what_the_user_has_chosen_stays() -> None:
    _, fewest, _ = faults_and_size("allocator.keep_freed_memory()", MALLOC_MMAP_THRESHOLD_="131072")
    assert fewest > 1000


@glibc
@pytest.mark.parametrize(("available_kb", "returned"), [(1, True), (1 << 40, False)])
def test_room_is_made_where_it_is_scarce(available_kb: int, returned: bool) -> None:
    program = f"""
import torch
from pathlib import Path
from gecko_lab import allocator
read = Path.read_text
text = "MemTotal: 1 kB\\nMemAvailable: {available_kb} kB"
Path.read_text = lambda path, *args: text if str(path) == "/proc/meminfo" else read(path, *args)
allocator.keep_freed_memory()
held = [torch.ones(25_000_000) for _ in range(4)]
resident = lambda: int(read(Path("/proc/self/statm")).split()[1]) * 4096
before = resident()
del held
kept = before - resident()
allocator.make_room()
print(kept, before - resident())
"""
    given = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True)
    kept, after = map(int, done.stdout.split())
    assert kept < 100_000_000
    assert (after > 300_000_000) == returned
