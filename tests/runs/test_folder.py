"""A run's folder: where it is, what it says, and that nothing is ever written over."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gecko_lab.__main__ import main
from gecko_lab.runs.folder import RunFolder, find_place, numbered
from gecko_lab.runs.identity import identity
from gecko_lab.runs.lock import RunLock, RunLocked
from gecko_lab.runs.record_file import read_record, run_state
from tests.runs.comparison import metrics
from tests.runs.stopping import OPTIONS, contents, copy_of, fit
from tests.training import arguments

Said = Callable[[], str]


def test_record_says_what_the_run_is(trainings: Path) -> None:
    run = trainings / "whole"
    record = read_record(run) or {}
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert record["state"] == run_state(run) == "finished"
    assert record["identity"] == identity(settings)
    assert (record["name"], record["seed"]) == ("whole", 0)
    assert record["progress"].items() >= {"step": 12, "steps": 12, "tokens": 12 * 128}.items()
    last = metrics(run)[-1]
    assert record["metrics"]["loss/validation"] == pytest.approx(float(last["loss/validation"]))
    assert record["metrics"]["step"] == 12
    assert record["cost"].keys() == {"parameters", "flops_per_token", "state_bytes", "tokens_per_step"}
    (start,) = record["starts"]
    assert start.items() >= {"step": 0, "state": "finished", "pid": os.getpid()}.items()
    assert start["environment"].keys() >= {"gecko_lab", "commit", "torch", "lightning", "device", "threads"}


def test_default_place_is_named_after_configuration_and_identity(tmp_path: Path) -> None:
    place = find_place(None, "tiny", {"a": 1}, fresh=False, main_process=True)
    assert place == Path("runs") / f"tiny-{identity({'a': 1})[:8]}"


def test_settings_by_flags_and_by_yaml_are_one_run(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = arguments(trainings, **OPTIONS | {"trainer__max_steps": 1, "trainer__limit_val_batches": 0})
    tree: dict = {}  # type: ignore[type-arg]
    for word in words:
        name, _, value = word.removeprefix("--").partition("=")
        place = tree
        for key in name.split(".")[:-1]:
            place = place.setdefault(key, {})
        place[name.split(".")[-1]] = yaml.safe_load(value)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert main(["fit", *words]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert run.name == f"run-{identity(settings)[:8]}"
    for same in (words[::-1], ["--config", "run.yaml"], ["--config", "run.yaml", "--data.num_workers=2"]):
        assert main(["fit", *same]) == 0
        assert "finished" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]


def test_other_settings_are_refused_by_name_and_nothing_changes(trainings: Path, half: Path, said: Said) -> None:
    for name in ("half", "whole"):
        run = half if name == "half" else copy_of(trainings / "whole", half.with_name("finished"))
        before = contents(run)
        assert fit(trainings, run, data__seed=1, model__optimizer__lr=0.02) == 2
        assert "which differ in data.seed, model.optimizer.lr; name another folder, or" in (message := said())
        assert "--fresh" in message
        assert message.count("\n") == 0
        assert contents(run) == before


def test_fresh_starts_over_beside_and_never_over(trainings: Path, half: Path) -> None:
    before, short = contents(half), {"trainer__max_steps": 1, "trainer__limit_val_batches": 0}
    for number in (2, 3):
        assert fit(trainings, half, "--fresh", **short) == 0
        made = half.with_name(f"half-{number}")
        assert run_state(made) == "finished"
        assert [row["step"] for row in metrics(made)] == ["1"]
    assert contents(half) == before
    assert not half.with_name("half-4").exists()
    assert fit(trainings, half.with_name("new"), "--fresh", **short) == 0
    assert run_state(half.with_name("new")) == "finished"


@pytest.mark.parametrize("name", ["notes.txt", "checkpoints/step-00000001.ckpt", "metrics.csv"])
def test_a_folder_that_holds_something_else_is_refused(trainings: Path, tmp_path: Path, said: Said, name: str) -> None:
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).write_text("mine")
    (tmp_path / "run" / "config.yaml").write_text("mine: 1")
    before = contents(tmp_path / "run")
    assert fit(trainings, tmp_path / "run") == 2
    assert "holds something else than a run" in said()
    assert contents(tmp_path / "run") == before
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b'{"format": ', "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"[]", "is not the record of a run"),
        (b'{"format": "other"}', "is not the record of a run"),
        (b'{"format": "gecko-lab-run", "format_version": 2}', "is of format 2, this version reads 1"),
        (b'{"format": "gecko-lab-run", "format_version": 1}', "is damaged"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_damaged_record_is_told_and_left(
    trainings: Path, half: Path, said: Said, content: bytes, message: str
) -> None:
    (half / "run.json").write_bytes(content)
    before = contents(half)
    assert fit(trainings, half) == 2
    assert f"{half / 'run.json'} {message}" in (told := said())
    assert told.count("\n") == 0
    assert contents(half) == before


def test_a_run_without_its_record_goes_on_beside(trainings: Path, half: Path) -> None:
    """As the message about a damaged record says."""
    (half / "run.json").write_text("{")
    checkpoint = half / "checkpoints" / "last.ckpt"
    beside = half.with_name("beside")
    assert fit(trainings, beside, "--ckpt_path", str(checkpoint)) == 0
    whole = metrics(trainings / "whole")
    assert metrics(beside) == [row for row in whole if int(row["step"]) > 7]


def test_a_run_that_another_process_trains_is_left_alone(
    trainings: Path, half: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the second one's end does, it does not touch the record of the first."""

    def locked(lock: RunLock) -> None:
        raise RunLocked(f"{lock.path.parent} is being trained by another process")

    monkeypatch.setattr(RunLock, "acquire", locked)
    before = contents(half)
    assert fit(trainings, half) == 2
    assert "is being trained by another process" in said()
    assert contents(half) == before
    (half.with_name("new")).mkdir()
    assert fit(trainings, half.with_name("new")) == 2
    assert half.with_name("new").is_dir()


def test_states_of_a_run(tmp_path: Path) -> None:
    assert run_state(tmp_path / "none") is None
    run = RunFolder(tmp_path / "run", {"a": 1})
    run.claim(["fit"])
    assert run_state(tmp_path / "run") == "running"
    run.release()
    assert run_state(tmp_path / "run") == "interrupted"  # it says that it is running, but nobody has it
    again = RunFolder(tmp_path / "run", {"a": 1})
    again.claim(["fit"])
    again.end("failed", error="why")
    assert run_state(tmp_path / "run") == "failed"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["error"] == "why"
    assert [start.get("state") for start in record["starts"]] == [None, "failed"]


def test_a_mistake_before_the_first_step_leaves_no_folder(trainings: Path, tmp_path: Path) -> None:
    assert fit(trainings, tmp_path / "run", data__sources=str(tmp_path / "nowhere")) == 2
    assert not (tmp_path / "run").exists()


def test_numbered() -> None:
    names = numbered(Path("a/run"))
    assert [str(next(names)) for _ in range(3)] == ["a/run", "a/run-2", "a/run-3"]
