"""A grid on a real SLURM of one node: preempted, left alone, adopted, stopped, failing."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.__main__ import main
from gecko_lab.grids import slurm_launcher
from gecko_lab.grids.plan import Plan, make_plan
from gecko_lab.grids.slurm_options import SlurmOptions
from gecko_lab.runs.metrics_file import METRICS_FILE
from gecko_lab.runs.record_file import read_record, run_state, written_step
from tests.grids.lives import Life, trained_in_this_process, values, wait_for
from tests.grids.slurm_cluster import cluster, obstacle
from tests.grids.tiny import VALUE_DIM, write_grid
from tests.runs.comparison import assert_same_run

GRID: dict[str, Any] = {"axes": {"width": {"8": {}, "12": {VALUE_DIM: 24}}}, "seeds": 1, "retries": 0}
STEPS = 200
GROUPS: dict[str, Any] = {
    "trainer": {"max_steps": STEPS, "val_check_interval": STEPS, "log_every_n_steps": 20},
    "checkpoint": {"every": "20 steps"},
}
SLURM = ("--launcher", "slurm", "--slurm.time", "10", "--slurm.cpus", "1")


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if (why := obstacle()) is not None:
        pytest.skip(why)
    with cluster(tmp_path_factory.mktemp("slurm")) as conf:
        yield conf


@pytest.fixture
def queue(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SLURM's commands, and in the end an empty queue."""
    monkeypatch.setenv("SLURM_CONF", str(configuration))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    subprocess.run(["scancel", "--user=root"], check=True)
    wait_for(lambda: not jobs())


def jobs() -> dict[str, str]:
    """The states of the jobs in the queue, by their numbers."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return dict(line.split("|") for line in printed.split())


def trained(plan: Plan, least: int) -> bool:
    """Whether every run has a checkpoint of so many steps."""
    return all(written_step(run.folder) >= least for run in plan.runs())


def test_a_grid_preempted_and_left_alone_equals_one_trained_here(queue: None, tmp_path: Path) -> None:
    config = write_grid(tmp_path, GRID, **GROUPS)
    here = trained_in_this_process(make_plan(str(config), [], tmp_path / "here"))
    plan, log = make_plan(str(config), [], tmp_path / "grid"), tmp_path / "log"
    life = Life(config, plan.folder, log, *SLURM)
    wait_for(lambda: trained(plan, 20), life)
    assert sorted(jobs().values()) == ["RUNNING", "RUNNING"]
    first = min(jobs())
    subprocess.run(["scancel", "--signal=USR2", first], check=True)  # what SLURM sends ahead of a preemption
    wait_for(lambda: jobs().get(first) == "PENDING", life)
    assert run_state(plan.runs()[0].folder) == "interrupted"
    life.kill()  # the jobs do not mind
    assert len(jobs()) == 2

    assert Life(config, plan.folder, log, *SLURM).wait() == 0, log.read_text()
    assert "attempt" not in log.read_text()
    for ours, theirs in zip(plan.runs(), here.runs(), strict=True):
        assert_same_run(ours.folder, theirs.folder)
    assert values(plan) == values(here)
    starts = [len((read_record(run.folder) or {})["starts"]) for run in plan.runs()]
    assert starts == [2, 1]  # the job that was queued again, and no other was submitted


def test_detached_jobs_are_adopted_and_stop_on_a_signal(
    queue: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    groups = {
        "trainer": {"max_steps": 100_000, "log_every_n_steps": 20, "limit_val_batches": 1},
        "checkpoint": {"every": "100000 steps"},  # none but that of the signal
    }
    config = write_grid(tmp_path, GRID, **groups)
    plan, log = make_plan(str(config), [], tmp_path / "grid"), tmp_path / "log"
    command = ["grid", str(config), "--folder", str(plan.folder), *SLURM, "--jobs", "1", "--detach"]
    assert main(command) == 0
    assert "2 runs submitted, 0 were under way" in capfd.readouterr().out
    assert main(command) == 0
    assert "0 runs submitted, 2 were under way" in capfd.readouterr().out
    metrics = plan.runs()[0].folder / METRICS_FILE
    wait_for(lambda: metrics.exists() and len(metrics.read_text().splitlines()) > 2)
    assert sorted(jobs().values()) == ["PENDING", "RUNNING"]
    life = Life(config, plan.folder, log, *SLURM)
    wait_for(lambda: "running" in log.read_text() if log.exists() else None, life)
    os.kill(life.pid, signal.SIGINT)
    assert life.wait() == 130, log.read_text()
    assert jobs() == {}
    assert "stopped with 0 of 2 runs finished" in log.read_text()
    assert [run_state(run.folder) for run in plan.runs()] == ["interrupted", None]
    assert written_step(plan.runs()[0].folder) >= 20  # a checkpoint of the moment


def test_a_job_that_does_not_begin_is_reported(
    queue: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm_launcher, "_LOOK_SECONDS", 0.5)
    config = write_grid(tmp_path, GRID | {"slurm": {"setup": ["exit 3"]}}, **GROUPS)
    assert main(["grid", str(config), "--folder", str(tmp_path / "grid"), *SLURM]) == 1
    error = capfd.readouterr().err
    assert error.count("ended before the run began: JobState FAILED, Reason NonZeroExitCode, ExitCode 3:0") == 2


def test_what_slurm_refuses_is_one_message(queue: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = write_grid(tmp_path, GRID, **GROUPS)
    assert main(["grid", str(config), "--folder", str(tmp_path / "grid"), *SLURM, "--slurm.partition", "moon"]) == 2
    error = capfd.readouterr().err
    assert error.count("Invalid partition name specified") == 1
    assert "Traceback" not in error
    assert jobs() == {}


def test_without_slurm_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_grid(tmp_path, GRID, **GROUPS)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["grid", str(config), "--folder", str(tmp_path / "grid"), *SLURM]) == 2
    assert "there is no sbatch here" in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--launcher", "slurm", "--slurm.partitoin", "x"], "partitoin: unknown key; did you mean partition"),
        (["--launcher", "slurm", "--slurm.time", "soon"], "--slurm.time: expected minutes or hours"),
        (["--launcher", "slurm", "--slurm.cpus", "0"], "--slurm.cpus: expected a number of at least 1"),
        (["--launcher", "slurm", "--slurm.memory", "64"], "--slurm.memory: expected memory with its unit"),
        (["--slurm.time", "5"], "--slurm goes with --launcher slurm"),
        (["--detach"], "--detach goes with --launcher slurm"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_named(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_grid(tmp_path, GRID, **GROUPS)
    assert main(["grid", str(config), "--folder", str(tmp_path / "grid"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "grid").exists()


def test_parameters_follow_the_trainer() -> None:
    plain = SlurmOptions().parameters({"devices": "auto", "accelerator": "auto", "num_nodes": 1})
    assert (plain["nodes"], plain["ntasks_per_node"], plain.get("gpus_per_node")) == (1, 1, None)
    many = SlurmOptions(memory="64 G", time=90.4).parameters({"devices": 4, "accelerator": "gpu", "num_nodes": 2})
    assert (many["nodes"], many["ntasks_per_node"], many["gpus_per_node"], many["time"]) == (2, 4, 4, 90)
    assert many["additional_parameters"] == {"requeue": True, "mem": "64G"}
    assert SlurmOptions(gpus=2).parameters({"devices": "auto"})["ntasks_per_node"] == 2
