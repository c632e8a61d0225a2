"""`gecko-lab bench kernels`."""

from __future__ import annotations

import inspect
import json as json_format
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch

from gecko_lab.allocator import keep_freed_memory
from gecko_lab.bench import gate, machine, memory, table
from gecko_lab.bench.cases import Scale, choose
from gecko_lab.bench.display import display
from gecko_lab.bench.options import at_least_one, device_of, new_folder, threads_of
from gecko_lab.bench.timing import PASSES, interleave, passes
from gecko_lab.bench.work import least_work
from gecko_lab.errors import ConfigurationError
from gecko_lab.kernels.case import Size

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_ROUNDS: dict[Scale, int] = {"small": 3, "full": 5, "7b": 5}


def kernels(
    *,
    only: str | None = None,
    size: Scale = "full",
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32",
    threads: int | None = None,
    rounds: int | None = None,
    alternatives: bool = True,
    memory_peaks: bool = True,
    keep_memory: bool = False,
    out: str | None = None,
    compare: str | None = None,
    json: bool = False,
) -> None:
    """Time the kernels beside their references and what else one would take.

    Each is first checked against the reference in float64, outputs and every gradient; what is wrong gets no speed, and
    the exit code is 1. Then ours and the alternatives take turns, forward and forward + backward: medians and spread of
    the rounds, ratios to ours, shares of the machine's limit, and peak memory above the inputs.

    Example: gecko-lab bench kernels --only cema,attention --threads 2

    Args:
        only: names of operations with commas between; all of them by default.
        size: `full` takes minutes, `small` seconds; `7b` has the shapes of a network of that size and needs a GPU.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA where there is one.
        dtype: of the activations.
        threads: of PyTorch on CPU; what PyTorch takes by default.
        rounds: samples of each time; 5, or 3 when small.
        alternatives: whether anything but ours is timed.
        memory_peaks: whether memory is measured too.
        keep_memory: on CPU, use freed memory again, as `gecko-lab fit` does; else what a program does by default, where
            large results cost the system's handing out of memory too.
        out: folder for kernels.json, kernels.png and kernels.svg.
        compare: a git revision, which is timed in turns with the files as they are now.
        json: print JSON.
    """
    options = {name: value for name, value in locals().items() if name != "json"}
    defaults = inspect.signature(kernels).parameters
    given = [f"--{key} {value}" for key, value in options.items() if value != defaults[key].default]
    command = " ".join(["gecko-lab bench kernels", *given])
    names = choose(only, size)
    where = device_of(device)
    if size == "7b" and where.type != "cuda":
        raise ConfigurationError("--size 7b times Triton's kernels and needs a GPU; there is none, or --device is cpu")
    rounds = _ROUNDS[size] if rounds is None else rounds
    at_least_one(rounds=rounds, threads=threads)
    folder = new_folder(out, "--out")
    if compare is not None:
        from gecko_lab.bench.compare_command import compare_revisions

        options |= {"rounds": 1, "alternatives": False, "memory_peaks": False, "out": None, "compare": None}
        if not keep_memory:
            del options["keep_memory"]  # which older revisions do not know
        compare_revisions("kernels", options, compare, rounds, command, folder, json)
        return
    if keep_memory and where.type == "cpu":
        keep_freed_memory()
    with threads_of(threads), display() as tell:
        tell("the machine's ceilings")
        ceilings: Size = "small" if size == "small" else "full"
        result: dict[str, Any] = {
            "command": command,
            "size": size,
            "dtype": dtype,
            "rounds": rounds,
            "machine": machine.describe(where, _DTYPES[dtype], ceilings),
            "cases": [],
        }
        for name in names:
            result["cases"].append(_run_case(name, result, where, alternatives, memory_peaks, tell))
    if folder is not None:
        from gecko_lab.bench.plots import plot_kernels

        (folder / "kernels.json").write_text(json_format.dumps(result, indent=2))
        plot_kernels(result, folder)
    print(json_format.dumps(result, indent=2)) if json else table.show(result)
    if not all(verdict["green"] for case in result["cases"] for verdict in case["check"].values()):
        sys.exit(1)


def _run_case(
    name: str,
    whole: dict[str, Any],
    device: torch.device,
    alternatives: bool,
    memory_peaks: bool,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Check, then time and weigh what passed; nothing if ours is wrong."""
    dtype, size, rounds = _DTYPES[whole["dtype"]], whole["size"], whole["rounds"]
    case, problems = memory.load_problems(name, size)
    tell(f"{name}: check")
    verdicts = {verdict.contender: verdict for verdict in gate.check(case, dtype, device)}
    result: dict[str, Any] = {
        "name": name,
        "title": case.title,
        "check_shape": case.check_shape._asdict(),
        "check": {contender: verdict.as_dict() for contender, verdict in verdicts.items()},
        "problems": [],
    }
    if not verdicts[case.ours.name].green:
        return result
    for number, problem in enumerate(problems):
        contenders = case.contenders(problem) if alternatives else (case.ours,)
        sound = tuple(c for c in contenders if c.name not in verdicts or verdicts[c.name].green)
        title = f"{name} {case.describe(problem.shape)}"
        inputs = {key: x.to(device) for key, x in case.inputs(problem.shape, dtype).items()}
        tell_more = _within(title, tell)
        times = interleave(sound, inputs, problem.shape, rounds, tell_more)
        if device.type == "cpu":
            del inputs  # each contender is weighed in a process of its own
        shape = problem.shape._asdict()
        work = least_work(name, shape, dtype.itemsize)
        rows = []
        for contender in sound:
            peak: memory.Peak = dict.fromkeys(PASSES)
            if memory_peaks and device.type == "cuda":
                runs = passes(contender, inputs, problem.shape)
                peak = {key: memory.peak_of(run, device) for key, run in runs.items()}
            elif memory_peaks:
                tell_more(f"{contender.name}, memory")
                task = memory.Task(name, size, number, contender.name, dtype, device, torch.get_num_threads())
                peak = memory.measure(task)
            measured = {}
            for key in PASSES:
                seconds = times[contender.name, key]
                share = None if work is None else work[key].seconds(whole["machine"]) / seconds.median
                measured[key] = {"seconds": seconds.as_dict(), "limit": share, "bytes": peak[key]}
            rows.append({"name": contender.name, "same": contender.same, **measured})
        description = case.describe(problem.shape)
        result["problems"].append({"shape": shape, "description": description, "contenders": rows})
    return result


def _within(title: str, tell: Callable[[str], None]) -> Callable[[str], None]:
    return lambda what: tell(f"{title}: {what}")
