"""`gecko-lab bench kernels`."""

from __future__ import annotations

import inspect
import json as json_format
import sys
from collections.abc import Callable
from typing import Any, Literal

import torch

from gecko_lab.bench import gate, machine, memory, table
from gecko_lab.bench.cases import choose, load_case
from gecko_lab.bench.display import display
from gecko_lab.bench.timing import PASSES, interleave
from gecko_lab.errors import ConfigurationError
from gecko_lab.kernels.case import Size

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
_ROUNDS: dict[Size, int] = {"small": 3, "full": 5}


def kernels(
    *,
    only: str | None = None,
    size: Size = "full",
    device: str = "auto",
    dtype: Literal["float32", "bfloat16", "float64"] = "float32",
    threads: int | None = None,
    rounds: int | None = None,
    json: bool = False,
) -> None:
    """Time the kernels beside their references and what else one would take.

    Each is first checked against the reference in float64, outputs and every gradient; what is wrong gets no speed, and
    the exit code is 1. Then ours and the alternatives take turns, forward and forward + backward: medians and spread of
    the rounds, ratios to ours, and peak memory above the inputs.

    Example: gecko-lab bench kernels --only cema,attention --threads 2

    Args:
        only: names of operations with commas between; all of them by default.
        size: `full` takes minutes, `small` seconds.
        device: `cpu`, `cuda`, `cuda:1`, or `auto`: CUDA where there is one.
        dtype: of the activations.
        threads: of PyTorch on CPU; what PyTorch takes by default.
        rounds: samples of each time; 5, or 3 when small.
        json: print JSON.
    """
    options = {"only": only, "size": size, "device": device, "dtype": dtype, "threads": threads, "rounds": rounds}
    defaults = inspect.signature(kernels).parameters
    given = [f"--{key} {value}" for key, value in options.items() if value != defaults[key].default]
    names = choose(only)
    where = _device(device)
    rounds = _ROUNDS[size] if rounds is None else rounds
    for flag, value in (("--rounds", rounds), ("--threads", threads)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{flag} must be at least 1, got {value}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with display() as tell:
            tell("the machine's ceilings")
            result: dict[str, Any] = {
                "command": " ".join(["gecko-lab bench kernels", *given]),
                "size": size,
                "dtype": dtype,
                "rounds": rounds,
                "machine": machine.describe(where, _DTYPES[dtype], size),
                "cases": [],
            }
            for name in names:
                result["cases"].append(_run_case(name, size, _DTYPES[dtype], where, rounds, tell))
    finally:
        torch.set_num_threads(before)
    print(json_format.dumps(result, indent=2)) if json else table.show(result)
    if not all(verdict["green"] for case in result["cases"] for verdict in case["check"].values()):
        sys.exit(1)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(f"--device: there is no device {name!r}; try cpu, cuda, cuda:1 or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"--device must be cpu, cuda or auto, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    return device


def _run_case(
    name: str, size: Size, dtype: torch.dtype, device: torch.device, rounds: int, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Check, then time and weigh what passed; nothing if ours is wrong."""
    case = load_case(name)
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
    for number, problem in enumerate(case.problems[size]):
        sound = tuple(c for c in case.contenders(problem) if c.name not in verdicts or verdicts[c.name].green)
        title = f"{name} {case.describe(problem.shape)}"
        inputs = {key: x.to(device) for key, x in case.inputs(problem.shape, dtype).items()}
        tell_more = _within(title, tell)
        times = interleave(sound, inputs, problem.shape, rounds, tell_more)
        del inputs
        rows = []
        for contender in sound:
            tell_more(f"{contender.name}, memory")
            task = memory.Task(name, size, number, contender.name, dtype, device, torch.get_num_threads())
            peak = memory.measure(task)
            measured = {key: {"seconds": times[contender.name, key].as_dict(), "bytes": peak[key]} for key in PASSES}
            rows.append({"name": contender.name, "same": contender.same, **measured})
        result["problems"].append(
            {"shape": problem.shape._asdict(), "description": case.describe(problem.shape), "contenders": rows}
        )
    return result


def _within(title: str, tell: Callable[[str], None]) -> Callable[[str], None]:
    return lambda what: tell(f"{title}: {what}")
