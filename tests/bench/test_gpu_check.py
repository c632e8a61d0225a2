"""`make gpu-check`, rehearsed without a GPU and without what a GPU machine lacks."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from gecko_lab.bench import gpu_check, gpu_table
from tests.processes import is_running
from tests.source_tree import REPOSITORY

ABSENT = ("jsonargparse", "litdata", "lightning", "transformers")
BLOCK = """
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Absent())
"""


def run(folder: Path, absent: tuple[str, ...], *command: str) -> subprocess.CompletedProcess[str]:
    """A Python in which some modules are not installed."""
    (folder / "sitecustomize.py").write_text(BLOCK.format(names=set(absent)))
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *command], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_gpu_check_rehearses(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        "--rehearse",
        "--out",
        str(out),
        "--only",
        "gated",
        "--tests",
        "tests/bench/test_work.py",
        "--minutes",
        "8",
    ]
    done = run(tmp_path, ABSENT, "-m", "gecko_lab.bench.gpu_check", *command)
    assert done.returncode == 0, done.stdout + done.stderr + (out / "log.txt").read_text()
    assert done.stdout.splitlines()[-1] == "all green"
    assert max(map(len, done.stdout.splitlines())) <= 100
    found: dict[str, Any] = json.loads((out / "gpu_check.json").read_text())
    assert found["tests"]["failed"] == []
    assert found["tests"]["passed"] >= 5
    (case,) = found["kernels"]["gated"]["result"]["cases"]
    assert all(problem["description"] in done.stdout for problem in case["problems"])
    assert [row["name"] for row in found["layer"]["result"]["layers"]] == ["GeckoLayer", "TransformerLayer"]
    for row in found["layer"]["result"]["layers"]:
        assert row["forward_backward"]["flops"] == 3 * row["forward"]["flops"]
        assert row["name"] in done.stdout


def test_gpu_check_imports_only_what_a_gpu_machine_has(tmp_path: Path) -> None:
    modules = "gpu_check, gpu_table, kernels_command, large_cases, plots, revisions, work"
    done = run(tmp_path, (*ABSENT, "docstring_parser"), "-c", f"from gecko_lab.bench import {modules}")
    assert done.returncode == 0, done.stderr


def test_gpu_check_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        gpu_check.main([])
    assert stop.value.code == 2
    assert "--rehearse" in capsys.readouterr().err


@pytest.mark.parametrize("deaf", [False, True], ids=["listens", "ignores"])
def test_run_stage_ends_what_takes_too_long(deaf: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "_LEAST_SECONDS", 0.0)
    monkeypatch.setattr(gpu_check, "_LAST_WORDS", 0.5)
    program = (
        "import signal, subprocess, sys, time\n"
        f"signal.signal(signal.SIGINT, signal.{'SIG_IGN' if deaf else 'default_int_handler'})\n"
        f"child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
        "time.sleep(600)"
    )
    printed, failure = gpu_check.run_stage([sys.executable, "-c", program], 3.0, tmp_path / "log.txt", [])
    assert printed == ""
    assert failure == "stopped after 3 s"
    pid = tmp_path / "pid"
    if pid.exists() and pid.read_text():  # on a busy machine the child may not have begun
        end = time.monotonic() + 60
        while is_running(int(pid.read_text())):  # a signal takes its time to arrive
            assert time.monotonic() < end
            time.sleep(0.05)


def test_run_stage_does_not_begin_what_cannot_end(tmp_path: Path) -> None:
    assert gpu_check.run_stage(["no-such-program"], 0.0, tmp_path / "log.txt", []) == ("", "no time left")


def test_run_tests_says_that_none_ran(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.touch()
    found = gpu_check.run_tests("tests/bench/no_such_test.py", tmp_path, 300.0, log)
    assert found["passed"] == 0
    assert found["failure"] == "no test ran"


def test_read_report_counts(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.kernels.test_a" name="test_x[1]"/>'
        '<testcase classname="tests.kernels.test_a" name="test_y"><failure/></testcase>'
        '<testcase classname="tests.kernels.test_a" name="test_z"><skipped/></testcase>'
        '<testcase classname="tests.kernels.test_b" name="test_w"><error/></testcase></testsuite></testsuites>'
    )
    failed = ["test_a::test_y", "test_b::test_w"]
    assert gpu_check.read_report(report) == {"passed": 1, "failed": failed, "skipped": 1}


GREEN: dict[str, Any] = {
    "tests": {"passed": 3, "failed": [], "skipped": 0, "failure": None},
    "kernels": {"cema": {"failure": None, "result": {"cases": [{"check": {"Triton": {"green": True}}}]}}},
    "layer": {"failure": None, "result": {"check": {"GeckoLayer": {"green": True}}}},
}


def test_all_green_sees_every_fault() -> None:
    assert gpu_table.all_green(GREEN)
    red_check = {"green": False, "errors": {"y": 1.0}, "limits": {"y": 0.1}, "limit": 0.1, "failure": None}
    for part, wrong in (
        ("tests", {**GREEN["tests"], "failed": ["test_a::test_y"]}),
        ("tests", {**GREEN["tests"], "failure": "stopped after 300 s"}),
        ("tests", {**GREEN["tests"], "passed": 0}),
        ("kernels", {"cema": {"failure": "stopped after 60 s", "result": None}}),
        ("kernels", {"cema": {"failure": None, "result": {"cases": [{"check": {"Triton": red_check}}]}}}),
        ("layer", {"failure": "no time left", "result": None}),
        ("layer", {"failure": None, "result": {"check": {"GeckoLayer": red_check}}}),
    ):
        assert not gpu_table.all_green({**GREEN, part: wrong}), wrong
