"""What looks at runs starts at once: the libraries that train are not loaded for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fake_runs import write_grid

TRAINING = {"torch", "lightning", "litdata"}
LOOKING = {"pandas", "pyarrow", "scipy", "matplotlib", "tensorboard"}
SCRIPT = """
import sys
{statement}
print(*sorted({modules} & sys.modules.keys()))
"""


def loaded(statement: str, modules: set[str]) -> list[str]:
    """Which of the modules a fresh process has loaded after a statement."""
    script = SCRIPT.format(statement=statement, modules=modules)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("flags", [["report"], ["dashboard", "--once"]], ids=lambda flags: flags[0])
def test_looking_at_runs_loads_nothing_that_trains(flags: list[str], tmp_path: Path) -> None:
    write_grid(tmp_path, num_variants=2, num_seeds=2, num_rows=3, recall=True)  # what a task needs is read as well
    arguments = [flags[0], str(tmp_path), *flags[1:]]
    assert loaded(f"from gecko_lab.__main__ import main; assert main({arguments!r}) == 0", TRAINING) == []


@pytest.mark.parametrize(
    "module",
    [
        "gecko_lab.__main__",
        "gecko_lab.reports.report_command",
        "gecko_lab.dashboard.dashboard_command",
        "gecko_lab.dashboard.server_process",
        "gecko_lab.grids.record",
        "gecko_lab.runs.metrics_file",
        "gecko_lab.runs.record_file",
        "gecko_lab.yaml_files",
    ],
)
def test_module_waits_for_no_large_library(module: str) -> None:
    """A mistake is told at once, and TensorBoard's process is started before the rest is loaded."""
    assert loaded(f"import {module}", TRAINING | LOOKING) == []


def test_loaded_finds_what_is_loaded() -> None:
    assert loaded("import yaml", {"yaml", "pandas"}) == ["yaml"]
