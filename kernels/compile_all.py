"""Compile every Triton kernel for every target and print what each needs; no GPU is used.

python -m gecko_lab.kernels.compile_all --only cema --target sm_90

The exit code is 1 where a kernel does not compile, spills, or needs more shared memory than a block can have.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from gecko_lab import kernels
from gecko_lab.kernels.ahead_of_time import TARGETS, measure
from gecko_lab.kernels.compilation import Compilation

_INTERPRET = "TRITON_INTERPRET"
Task = tuple[str, int, str]
"""A folder, which of its compilations, a target's name."""


def folders() -> list[str]:
    """Those that have a `compilations.py`, in alphabetical order."""
    packages = sorted(module.name for module in pkgutil.iter_modules(kernels.__path__) if module.ispkg)
    return [name for name in packages if find_spec(f"{kernels.__name__}.{name}.compilations")]


def load(folder: str) -> tuple[Compilation, ...]:
    """The compilations of one folder."""
    found: tuple[Compilation, ...] = importlib.import_module(f"{kernels.__name__}.{folder}.compilations").COMPILATIONS
    return found


def compile_one(task: Task) -> dict[str, Any]:
    """What a compilation needs on a target, and its `faults`, for JSON."""
    folder, index, target = task
    compilation = load(folder)[index]
    row: dict[str, Any] = {
        "folder": folder,
        "name": compilation.name,
        "target": target,
        "num_warps": compilation.num_warps,
        "num_stages": compilation.num_stages,
        "usage": None,
    }
    try:
        usage = measure(compilation, TARGETS[target])
    except Exception as error:  # whatever the compiler raises is what is wrong with the kernel
        return {**row, "faults": [f"does not compile: {type(error).__name__}: {' '.join(str(error).split())[-300:]}"]}
    return {**row, "usage": asdict(usage), "faults": usage.faults(TARGETS[target])}


def all_tasks(names: Sequence[str], targets: Sequence[str]) -> list[Task]:
    """Every compilation of several folders for every target."""
    return [
        (folder, index, target)
        for folder in names
        for index, compilation in enumerate(load(folder))
        for target in targets
        if compilation.targets is None or target in compilation.targets
    ]


def sample(tasks: Sequence[Task]) -> list[Task]:
    """One of each kernel and target, for each target from another part of the list: other dtypes, other shapes."""
    by_kernel: dict[tuple[str, Any], dict[str, list[Task]]] = {}
    for task in tasks:
        folder, index, target = task
        by_kernel.setdefault((folder, load(folder)[index].kernel), {}).setdefault(target, []).append(task)
    return [
        of_target[number * len(of_target) // len(by_target)]
        for by_target in by_kernel.values()
        for number, of_target in enumerate(by_target.values())
    ]


def compile_many(tasks: Sequence[Task], jobs: int) -> Iterator[dict[str, Any]]:
    """The rows of several tasks in order, each as soon as those before it are done."""
    if jobs == 1 or len(tasks) <= 1:
        yield from map(compile_one, tasks)
        return
    # Forked, and so with everything imported: there are no threads yet that could hold a lock.
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=multiprocessing.get_context("fork")) as pool:
        yield from pool.map(compile_one, tasks)


def heading(width: int) -> str:
    """Of the columns of `line`."""
    return f"{'':{width}}  target   warps  registers  spilled   shared"


def line(row: dict[str, Any], width: int) -> str:
    """One row of the table, and below it what is wrong."""
    text = f"{row['name']:{width}}  {row['target']:<7}  {row['num_warps']:5}"
    if row["usage"] is not None:
        usage = row["usage"]
        text += f"  {usage['registers']:9}  {usage['spilled_bytes']:5} B  {usage['shared_bytes'] / 1024:4.0f} KiB"
    return "\n".join([text, *(f"  FAULT: {fault}" for fault in row["faults"])])


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 where a kernel is at fault, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m gecko_lab.kernels.compile_all", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", help="names of operations with commas between; all of them by default")
    parser.add_argument("--target", help=f"names of targets with commas between; by default {','.join(TARGETS)}")
    parser.add_argument("--sample", action="store_true", help="one launch of each kernel and target, not all of them")
    parser.add_argument("--jobs", type=int, default=_cores(), help="processes that compile; as many as there are cores")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if os.environ.get(_INTERPRET, "0").lower() in ("1", "true", "on", "yes", "y"):
        parser.error(
            f"Triton interprets kernels where {_INTERPRET} is set; run it again without: env -u {_INTERPRET} …"
        )
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    names = _choose(parser, "--only", options.only, folders())
    targets = _choose(parser, "--target", options.target, list(TARGETS))
    width = max((len(one.name) for folder in names for one in load(folder)), default=0)
    tasks = all_tasks(names, targets)
    rows: list[dict[str, Any]] = []
    for row in compile_many(sample(tasks) if options.sample else tasks, options.jobs):
        if not options.json:
            if not rows or rows[-1]["folder"] != row["folder"]:
                print(f"\n{row['folder']}\n{heading(width)}")
            print(line(row, width), flush=True)
        rows.append(row)
    at_fault = sum(bool(row["faults"]) for row in rows)
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        print(f"\n{len(rows)} compilations, {at_fault} at fault")
    return 1 if at_fault else 0


def _choose(parser: argparse.ArgumentParser, flag: str, text: str | None, known: list[str]) -> list[str]:
    """The names in a comma-separated list, or all."""
    if text is None:
        return known
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in known:
            parser.error(f"{flag}: unknown {name!r} (valid: {', '.join(known) or 'none'})")
    return [name for name in known if name in asked]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
