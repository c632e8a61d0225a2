"""`--compare`: two revisions, each with its own kernels, measured by the same code."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.bench import compare_command
from gecko_lab.bench.compare_command import red_checks, times
from tests.source_tree import LINKED_FOLDERS, PACKAGE, REPOSITORY

COMMAND = [
    sys.executable,
    "-c",
    "from gecko_lab.bench import kernels\n"
    "kernels(only='gated', size='small', device='cpu', threads=1, rounds=1, compare='HEAD', json=True)",
]


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *author, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of this package whose only commit times another shape, and had no benchmark of its own."""
    tree = tmp_path / "tree"
    for name in (PACKAGE, *LINKED_FOLDERS):
        shutil.copytree(REPOSITORY / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shape = tree / "kernels" / "gated" / "benchmark.py"
    now = shape.read_text()
    assert "Shape(1, 512, 64)" in now
    shape.write_text(now.replace("Shape(1, 512, 64)", "Shape(1, 300, 32)"))
    shutil.move(tree / PACKAGE / "bench", tmp_path / "bench")
    git(tree, "init", "--quiet")
    git(tree, "add", ".")
    git(tree, "commit", "--quiet", "--message", "before")
    shutil.move(tmp_path / "bench", tree / PACKAGE / "bench")
    shape.write_text(now)
    return tree


def test_compare_runs_the_kernels_of_both_revisions(checkout: Path) -> None:
    done = subprocess.run(COMMAND, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["before"] == git(checkout, "rev-parse", "--short=12", "HEAD").strip()
    assert found["rows"] == [], "they have no shape in common"
    assert found["alone"] == {
        f"gated [1, {length}, {features}]: {what}": which
        for which, length, features in (("now", 512, 64), ("before", 300, 32))
        for what in ("forward", "forward + backward")
    }
    assert git(checkout, "worktree", "list").count("\n") == 1, "the temporary work tree is gone"


RESULT = {
    "cases": [
        {
            "name": "cema",
            "check": {"blocks": {"green": True}, "FFT": {"green": False}},
            "problems": [
                {
                    "description": "[1, 2]",
                    "contenders": [
                        {"forward": {"seconds": {"median": x}}, "forward_backward": {"seconds": {"median": 3 * x}}}
                        for x in (1.0, 10.0)
                    ],
                }
            ],
        }
    ]
}


def test_compare_takes_turns_and_reports_medians(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    asked: list[str] = []

    def run_in(tree: Path, verb: str, options: dict[str, Any]) -> dict[str, Any]:
        asked.append("before" if tree == tmp_path else "now")
        slower = 2.0 * asked.count("before") if tree == tmp_path else 1.0
        row = {"name": "gecko", "seconds": {"median": slower}}
        failed = {"name": "megalodon", "seconds": None}
        machine = {"load_average": 0.0, "threads": 1, "cores": 2}
        checks = {"gecko": {"green": len(asked) != red_at}}
        return {"machine": machine, "check": checks, "lengths": [{"length": 2048, "models": [row, failed]}]}

    class Nothing:
        def __enter__(self) -> tuple[Path, str]:
            return tmp_path, "0123456789ab"

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(compare_command, "checked_out", lambda revision: Nothing())
    monkeypatch.setattr(compare_command, "run_in", run_in)
    red_at = 0
    compare_command.compare_revisions("train", {}, "HEAD~1", 3, "gecko-lab bench train", tmp_path, False)
    assert asked == ["now", "before", "before", "now", "now", "before"]
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    (row,) = json.loads((tmp_path / "compare.json").read_text())["rows"]
    assert row["what"] == "gecko, 2,048 tokens"
    assert (row["now"]["median"], row["before"]["median"]) == (1.0, 4.0)
    (line,) = (line for line in printed.splitlines() if line.startswith("gecko, 2,048 tokens"))
    assert line.split()[-1] == "4.00"

    asked.clear()
    red_at = 2
    with pytest.raises(SystemExit) as stop:
        compare_command.compare_revisions("train", {}, "HEAD~1", 1, "gecko-lab bench train", None, False)
    assert stop.value.code == 1
    assert "gecko (before): WRONG, no speed" in capsys.readouterr().out


def test_times_are_of_ours_alone() -> None:
    assert times("kernels", RESULT) == {"cema [1, 2]: forward": 1.0, "cema [1, 2]: forward + backward": 3.0}
    assert red_checks(RESULT) == ["cema FFT"]
