"""What is shown while a grid runs."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from gecko_lab.grids.plan import PlannedRun
from gecko_lab.grids.progress import RunProgress
from gecko_lab.grids.table import Display, duration, line, live_table


def progress(folder: Path, seed: int = 0, **values: Any) -> RunProgress:
    variant: Any = SimpleNamespace(name="memory-on", steps=100, tokens_per_step=50, predicted={"seconds_per_step": 2.0})
    return RunProgress(PlannedRun(variant, seed, folder / f"seed-{seed}"), **values)


def printed(table: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_live_table_shows_each_run(tmp_path: Path) -> None:
    rows = [
        progress(tmp_path, 0, state="finished", step=100, loss=1.5, tokens_per_second=10),
        progress(tmp_path, 1, state="running", step=40, loss=2.25, tokens_per_second=1000, attempts=2),
        progress(tmp_path, 2),
    ]
    text = printed(live_table(rows))
    lines = [text_line for text_line in text.splitlines() if "memory-on" in text_line]
    assert [[cell.strip() for cell in text_line.split("│")[1:-1]] for text_line in lines] == [
        ["memory-on", "0", "finished", "100/100", "1.5000", "", ""],
        ["memory-on", "1", "running (2)", "40/100", "2.2500", "1,000", "3 s"],
        ["memory-on", "2", "waiting", "", "", "", "3 min"],
    ]
    assert "1 of 3 runs finished, about 3 min left" in text


def test_live_table_of_many_runs_shows_those_that_something_happens_to(tmp_path: Path) -> None:
    rows = [progress(tmp_path, seed, state="finished") for seed in range(60)]
    rows[50].state = "running"
    text = printed(live_table(rows))
    assert "running" in text
    assert "20 more" in text


def test_display_prints_a_line_for_each_change(tmp_path: Path) -> None:
    file = io.StringIO()
    one = progress(tmp_path)
    with Display(file) as display:
        display.show([one])
        one.state, one.attempts = "running", 1
        display.show([one])
        one.step = 7
        display.show([one])
        one.state, one.loss = "finished", 0.5
        display.show([one])
    assert file.getvalue().splitlines() == [
        "memory-on/seed-0: running",
        "memory-on/seed-0: finished, step 7/100, loss 0.5000",
    ]


def test_line_says_which_attempt_it_is(tmp_path: Path) -> None:
    assert line(progress(tmp_path, state="running", attempts=2)) == "memory-on/seed-0: running, attempt 2"


def test_progress_reads_what_a_run_has_logged(tmp_path: Path) -> None:
    one = progress(tmp_path)
    one.read()
    assert (one.step, one.loss) == (0, None)
    one.run.folder.mkdir()
    (one.run.folder / "metrics.csv").write_text("step,loss/train,tokens_per_second\n1,3.5,\n2,3.25,100\n3,,\n4,torn")
    one.read()
    assert (one.step, one.loss, one.tokens_per_second) == (3, 3.25, 100)
    assert one.seconds_left == (100 - 3) * 50 / 100


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (5400, "1.5 h"), (36000, "10.0 h")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
