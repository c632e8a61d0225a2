"""`gecko-lab grid` end to end, with real processes: plan, run, table; killed, stopped, failing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.__main__ import main
from gecko_lab.grids import grid_command
from gecko_lab.grids.grid_command import split
from gecko_lab.grids.launcher import Job
from gecko_lab.grids.local_launcher import LocalLauncher
from gecko_lab.grids.plan import Plan, make_plan
from gecko_lab.runs.lock import is_locked
from gecko_lab.runs.record_file import read_record, run_state
from tests.grids.in_process import InProcess
from tests.grids.lives import Life, trained_in_this_process, values, wait_for
from tests.grids.tiny import VALUE_DIM, write_grid
from tests.processes import is_running
from tests.runs.comparison import assert_same_run

GRID: dict[str, Any] = {"axes": {"width": {"8": {}, "12": {VALUE_DIM: 24}}}, "seeds": 2, "retries": 3}
# a checkpoint after each step, and steps enough to hit one, though this process may have to wait for its turn
GROUPS: dict[str, Any] = {"trainer": {"max_steps": 32, "val_check_interval": 16}, "checkpoint": {"every": "1 step"}}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def in_training(plan: Plan, least: int = 2) -> int | None:
    """The process of a run that has logged some steps and is not at its end."""
    for run in plan.runs():
        record = read_record(run.folder)
        path = run.folder / "metrics.csv"
        rows = path.read_bytes().count(b"\n") if path.exists() else 0
        if record is not None and run_state(run.folder) == "running" and least < rows < 12:
            pid = int(record["starts"][-1]["pid"])
            if is_running(pid):  # else it is that of the start before
                return pid
    return None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A grid whose runs were trained without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    return trained_in_this_process(make_plan(str(write_grid(folder, GRID, **GROUPS)), [], folder / "whole"))


def test_a_grid_killed_three_times_equals_one_never_killed(whole: Plan, tmp_path: Path) -> None:
    config, folder, log = whole.folder.parent / "tiny.yaml", tmp_path / "grid", tmp_path / "log"
    plan = make_plan(str(config), [], folder)

    life = Life(config, folder, log, "--jobs", "2")
    os.kill(wait_for(lambda: in_training(plan), life), signal.SIGKILL)  # a run: the grid starts it again
    wait_for(lambda: in_training(plan), life)
    life.kill()  # the grid: what it trains stops by itself
    wait_for(lambda: not any(is_locked(run.folder) for run in plan.runs()))
    assert any(run_state(run.folder) == "interrupted" for run in plan.runs())

    life = Life(config, folder, log, "--jobs", "2")
    victim = wait_for(lambda: in_training(plan), life)
    os.kill(victim, signal.SIGKILL)  # both
    life.kill()

    assert Life(config, folder, log, "--jobs", "2").wait() == 0, log.read_text()
    assert "finished" in log.read_text()
    for ours, theirs in zip(plan.runs(), whole.runs(), strict=True):
        assert_same_run(ours.folder, theirs.folder)
    assert values(plan) == values(whole)


def test_grid_stops_on_a_signal_with_checkpoints_and_goes_on(whole: Plan, tmp_path: Path) -> None:
    config, folder, log = whole.folder.parent / "tiny.yaml", tmp_path / "grid", tmp_path / "log"
    plan = make_plan(str(config), [], folder)
    life = Life(config, folder, log)
    wait_for(lambda: in_training(plan), life)
    os.kill(life.pid, signal.SIGINT)
    assert life.wait() == 130
    assert "stopped with 0 of 4 runs finished; the same command goes on" in log.read_text()
    assert [run_state(run.folder) for run in plan.runs()] == ["interrupted", None, None, None]
    assert (plan.runs()[0].folder / "checkpoints" / "last.ckpt").exists()


def test_grid_leaves_finished_runs_alone_and_shows_the_table(whole: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    config = whole.folder.parent / "tiny.yaml"
    whole.write()
    before = {path: path.read_bytes() for path in whole.folder.rglob("metrics.csv")}
    assert main(["grid", str(config), "--folder", str(whole.folder)]) == 0
    captured = capfd.readouterr()
    for run in whole.runs():
        assert f"{run.name}: finished" in captured.err
    assert "running" not in captured.err
    assert "trial" not in captured.err
    assert "Does it train?" in captured.out
    assert f"gecko-lab report {whole.folder}" in captured.out.replace("\n", "")
    mean = sum(values(whole)[:2]) / 2
    assert f"{mean:.4f}" in captured.out
    assert before == {path: path.read_bytes() for path in whole.folder.rglob("metrics.csv")}


def test_grid_prints_json(whole: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    config = whole.folder.parent / "tiny.yaml"
    assert main(["grid", str(config), "--folder", str(whole.folder), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["grid"]["format"] == "gecko-lab-grid"
    assert [run["value"] for run in printed["runs"]] == values(whole)
    assert {run["state"] for run in printed["runs"]} == {"finished"}


def test_grid_dry_run_starts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_grid(tmp_path, GRID)
    words = ["grid", str(config), "--folder", str(tmp_path / "grid"), "--dry_run", "--no_trial"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "2 variants × seeds 0, 1 = 4 runs" in printed
    assert f"width-12: --{VALUE_DIM}=24" in printed
    assert "not known before two seeds are finished" in printed
    assert main([*words, "--noise", "0.01"]) == 0
    assert "differences of 0." in capsys.readouterr().out
    assert not (tmp_path / "grid").exists()


MISSING: dict[str, Any] = {"there": {}, "missing": {"data.sources": "nowhere.txt"}}


def test_grid_starts_nothing_where_a_trial_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grid_command, "LocalLauncher", InProcess)
    config = write_grid(tmp_path, {"axes": {"sources": MISSING}})
    assert main(["grid", str(config), "--folder", str(tmp_path / "grid")]) == 2
    error = capsys.readouterr().err
    assert "tried sources-there" in error
    assert "sources-missing does not train" in error
    assert "nowhere.txt" in error
    assert not (tmp_path / "grid").exists()


def test_grid_reports_runs_that_failed_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(grid_command, "LocalLauncher", InProcess)
    config = write_grid(
        tmp_path, {"axes": {"sources": MISSING}, "metric": "loss/validatoin"}, trainer={"val_check_interval": 3}
    )
    assert main(["grid", str(config), "--folder", str(tmp_path / "grid"), "--no_trial"]) == 1
    captured = capsys.readouterr()
    states = [text for text in captured.err.splitlines() if text.startswith("sources-missing/seed-0:")]
    assert states[-1] == "sources-missing/seed-0: failed, attempt 2"
    report = captured.err.partition("sources-missing/seed-0 failed; the end of ")[2]
    assert "nowhere.txt" in report
    shown = " ".join(captured.out.split())
    assert "not compared" in shown
    assert "no finished run has logged loss/validatoin; did you mean loss/validation" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "which file?"),
        (["nowhere.yaml"], "there is no file nowhere.yaml"),
        (["--jobs", "0"], "--jobs: must be at least 1"),
        (["--retries=-1"], "--retries: must be at least 0"),
        (["--jobs", "many"], "jobs"),
        (["--no_trial", "--noise", "quiet"], "--noise: quiet is neither a number nor the folder"),
        (["--no_trial", "--noise=-1"], "--noise: must be more than nothing"),
        (["--trainer.max_step", "3"], "max_step"),
    ],
    ids=str,
)
def test_grid_names_a_mistake_and_starts_nothing(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = write_grid(tmp_path, GRID)
    named = [] if not words or words[0].endswith(".yaml") else [str(config)]
    assert main(["grid", *named, *words, "--dry_run"]) == 2
    assert message in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "text.jsonl"}


def test_split_keeps_flags_of_fit_apart() -> None:
    words = ["--trainer.max_steps", "-1", "g.yaml", "--jobs", "2", "--data.seed=3", "--dry-run", "--folder=x", "--json"]
    own, others = split(words)
    assert own == ["g.yaml", "--jobs", "2", "--dry_run", "--folder=x", "--json"]
    assert others == ["--trainer.max_steps", "-1", "--data.seed=3"]


def test_fit_runs_the_base_cell_of_the_same_file(whole: Plan, tmp_path: Path) -> None:
    config = whole.folder.parent / "tiny.yaml"
    base = whole.runs_of(whole.base)[0]
    assert main(["fit", "--config", str(config), "--run", str(tmp_path / "fit")]) == 0
    ours, theirs = read_record(tmp_path / "fit"), read_record(base.folder)
    assert ours is not None
    assert theirs is not None
    assert ours["identity"] == theirs["identity"]


def test_local_launcher_ends_jobs_with_the_process_that_started_them(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from gecko_lab.grids.launcher import Job
from gecko_lab.grids.local_launcher import LocalLauncher
launcher = LocalLauncher(1)
launcher.start([Job("job", ("components", "--help"), Path({str(tmp_path / "log")!r}))])
print(next(iter(launcher._running.values()))[1].pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    wait_for(lambda: not is_running(pid))


def test_local_launcher_shares_processors_and_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    started: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, env, **_: started.append(env))
    launcher = LocalLauncher(3, ["2", "5,6", "7"])
    launcher.start([Job(str(number), (), tmp_path / "log") for number in range(3)])
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["2", "5,6", "7"]
    assert {env["OMP_NUM_THREADS"] for env in started} == {"2"}
    for _, _, log in launcher._running.values():
        log.close()
