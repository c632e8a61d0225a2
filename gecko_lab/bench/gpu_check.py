"""Everything that wants a GPU, in one command that ends in time and prints a table last.

python -m gecko_lab.bench.gpu_check --out FOLDER

The tests of the kernels run compiled, and those of decoding capture; then every kernel is checked and timed at the
shapes of a 7B network, and at last a whole layer. Only the tree is needed beside torch, triton, numpy, rich, pytest and
hypothesis; pytest-xdist is used where it is. The layer needs docstring-parser too: `--wheels FOLDER` puts wheels on the
path, without installing them.
What was found so far is always in FOLDER/gpu_check.json. The exit code is 1 where anything failed or was cut short.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gecko_lab.bench import gpu_table
from gecko_lab.bench.revisions import PACKAGE

ROOT = PACKAGE.parent
_TESTS = "tests/kernels,tests/test_decoding.py"
_NO_GPU_NEEDED = "tests/kernels/test_compilation.py"
_TESTS_SHARE = 0.55
"""Of the time, at most."""

_LAYER_SECONDS = 60.0
"""Kept for the layer at the end."""

_LEAST_SECONDS = 10.0
"""What is not worth starting."""

_LAST_WORDS = 5.0
"""Seconds in which what is interrupted may still write what it has: pytest its report."""


class Clock:
    """The time that is left.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; never negative."""
        return max(self._end - time.monotonic(), 0.0)


def run_stage(command: list[str], seconds: float, log: Path, paths: list[str]) -> tuple[str, str | None]:
    """Run a program of its own for so long at most; its errors go to the end of the log.

    Returns:
        What it printed, and why it has no result: None where it ended by itself.
    """
    if seconds < _LEAST_SECONDS:
        return "", "no time left"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([*paths, *filter(None, [environment.get("PYTHONPATH")])])
    with log.open("ab") as errors:
        errors.write(f"\n== {' '.join(command)}\n".encode())
        errors.flush()
        # In a session of its own, so that whatever it started ends with it.
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        ) as child:
            try:
                return child.communicate(timeout=seconds - _LAST_WORDS)[0], None
            except subprocess.TimeoutExpired:
                printed = ""
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(child.pid, signal.SIGINT)
                    printed = child.communicate(timeout=_LAST_WORDS)[0]
                return printed, f"stopped after {seconds:.0f} s"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)


def run_tests(tests: str, out: Path, seconds: float, log: Path, workers: int = 0) -> dict[str, Any]:
    """The tests of the kernels, which take the GPU by themselves; counts, and the names of those that failed."""
    report = out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        *tests.split(","),
        f"--ignore={_NO_GPU_NEEDED}",
        "-q",
        "-p",
        "no:cacheprovider",
    ]
    # Other versions than those that the tests are kept free of warnings with may be installed here.
    command += ["-W", "default", "--tb=short", f"--junitxml={report}"]
    if workers and find_spec("xdist") is not None:
        command += ["-n", str(workers)]
    begin = time.monotonic()
    printed, failure = run_stage(command, seconds, log, [])
    with log.open("a") as file:
        file.write(printed)
    counts = read_report(report) if report.exists() else {"passed": 0, "failed": [], "skipped": 0}
    if failure is None and not (counts["passed"] or counts["failed"]):
        failure = "no test ran"
    return {**counts, "failure": failure, "seconds": time.monotonic() - begin}


def read_report(path: Path) -> dict[str, Any]:
    """How many tests passed and were skipped, and the names of those that failed."""
    cases = list(ElementTree.parse(path).iter("testcase"))
    failed = [
        f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {"passed": len(cases) - len(failed) - skipped, "failed": failed, "skipped": skipped}


def run_benchmark(stage: str, options: dict[str, Any], seconds: float, log: Path, paths: list[str]) -> dict[str, Any]:
    """One benchmark in a process of its own, so that one that crashes takes no other along."""
    command = [sys.executable, "-m", "gecko_lab.bench.gpu_check", "--stage", stage, json.dumps(options)]
    begin = time.monotonic()
    printed, failure = run_stage(command, seconds, log, paths)
    result = None
    if failure is None:
        try:
            result = json.loads(printed)
        except ValueError:
            failure = next((line for line in reversed(log.read_text().splitlines()) if line.strip()), "no result")
    return {"options": options, "result": result, "failure": failure, "seconds": time.monotonic() - begin}


def stage(name: str, options: dict[str, Any]) -> None:
    """The other side of `run_benchmark`: print the JSON of one benchmark."""
    import torch

    if name == "kernels":
        from gecko_lab.bench import kernels

        kernels(**options, json=True)
        return
    from gecko_lab.bench.layers import time_layers

    device = torch.device(options["device"])
    dtype = getattr(torch, options["dtype"])
    rounds, length = options["rounds"], options["length"]
    print(json.dumps(time_layers(size=options["size"], length=length, dtype=dtype, device=device, rounds=rounds)))


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 where anything failed or was cut short."""
    parser = argparse.ArgumentParser(prog="python -m gecko_lab.bench.gpu_check", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", default="runs/gpu-check", help="folder for gpu_check.json, tests.xml and log.txt")
    parser.add_argument("--minutes", type=float, default=9.0, help="when it must have ended")
    parser.add_argument("--only", help="operations with commas between; all by default")
    parser.add_argument("--tests", default=_TESTS, help="files and folders of tests with commas between")
    parser.add_argument("--wheels", help="folder of wheels to put on the path")
    parser.add_argument("--rehearse", action="store_true", help="small shapes on CPU: does the command itself work?")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.stage:
        stage(options.stage[0], json.loads(options.stage[1]))
        return 0
    if options.minutes <= 0:
        parser.error(f"--minutes must be positive, got {options.minutes:g}")
    import torch

    from gecko_lab.bench.cases import choose

    if not (options.rehearse or torch.cuda.is_available()):
        parser.error("PyTorch sees no GPU here; --rehearse tries the command itself on CPU")
    out = Path(options.out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    return check(
        out=out,
        tests=options.tests,
        names=choose(options.only, "small" if options.rehearse else "7b"),
        seconds=60 * options.minutes,
        wheels=sorted(map(str, Path(options.wheels).resolve().glob("*.whl"))) if options.wheels else [],
        rehearse=options.rehearse,
    )


def check(*, out: Path, tests: str, names: list[str], seconds: float, wheels: list[str], rehearse: bool) -> int:
    """Run all stages, print the table, return the exit code."""
    clock, log = Clock(seconds - 5), out / "log.txt"  # seconds for the table
    log.write_text("")
    device = "cpu" if rehearse else "cuda"
    dtype = "float32" if rehearse else "bfloat16"
    found: dict[str, Any] = {"tests": None, "kernels": {}, "layer": None}

    def keep(what: str) -> None:
        print(f"{seconds - clock.left:4.0f} s  {what}", file=sys.stderr, flush=True)
        (out / "gpu_check.json").write_text(json.dumps(found, indent=2))

    keep("tests")
    found["tests"] = run_tests(
        tests, out, _TESTS_SHARE * clock.left, log, 0 if rehearse else min(os.cpu_count() or 1, 8)
    )
    for index, name in enumerate(names):
        keep(f"kernels: {name}")
        share = (clock.left - _LAYER_SECONDS) / (len(names) - index) * 2  # the next ones may be faster
        asked = {
            "only": name,
            "size": "small" if rehearse else "7b",
            "device": device,
            "dtype": dtype,
            "memory_peaks": not rehearse,
        }
        limit = min(share, clock.left - _LAYER_SECONDS)
        found["kernels"][name] = run_benchmark("kernels", asked, limit, log, wheels)
    keep("layer")
    layer = {"size": "tiny" if rehearse else "7b", "length": 512 if rehearse else 32_768}
    found["layer"] = run_benchmark(
        "layer", {**layer, "dtype": dtype, "device": device, "rounds": 5}, clock.left, log, wheels
    )
    keep("done")
    gpu_table.show(found)
    return 0 if gpu_table.all_green(found) else 1


if __name__ == "__main__":
    sys.exit(main())
