"""What goes wrong around a run ends in one clear message; nothing is lost, and the run goes on once it is put right."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from gecko_lab.runs.record_file import read_record, run_state
from tests.runs.comparison import assert_same_run, events, metrics
from tests.runs.stopping import at_boundary, contents, copy_of, fit, stopped
from tests.training import write_text

Said = Callable[[], str]


def damage(path: Path, kind: str) -> None:
    """Damage a file."""
    content = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "flipped":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


@pytest.mark.parametrize("kind", ["truncated", "flipped", "empty", "without checksums"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_used(
    trainings: Path, half: Path, said: Said, kind: str
) -> None:
    newest = half / "checkpoints" / "step-00000007.ckpt"
    damage(newest.with_suffix(".sha256") if kind == "without checksums" else newest, kind)
    left = newest.read_bytes()
    assert fit(trainings, half) == 0
    message = said()
    assert message.count("\n") == 0
    assert f"the checkpoint {newest}" in message
    assert "going on with the one before it" in message
    assert newest.with_name("step-00000007.ckpt.damaged").read_bytes() == left
    assert_same_run(half, trainings / "whole")


def test_a_run_whose_checkpoints_are_all_damaged_is_left_as_it_is(trainings: Path, half: Path, said: Said) -> None:
    for path in half.glob("checkpoints/step-*.ckpt"):
        damage(path, "flipped")
    before = {name: content for name, content in contents(half).items() if "checkpoints" not in name}
    assert fit(trainings, half) == 2
    message = said().splitlines()[-1]
    assert "every checkpoint is damaged" in message
    assert "--fresh" in message
    assert {name: content for name, content in contents(half).items() if "checkpoints" not in name} == before
    assert len(list(half.glob("checkpoints/*.damaged"))) == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path, left: int = 0) -> None:
    """Leave so many bytes free, in whole pages."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - left))


@pytest.mark.parametrize(("step", "left"), [(1, 0), (6, 0), (7, 16 << 10), (12, 40 << 10)])
def test_a_full_disk_stops_the_run_and_nothing_is_lost(
    trainings: Path, small_disk: Path, said: Said, step: int, left: int
) -> None:
    """Full as a step ends: loggers, record and checkpoint have no room, or one of them some."""
    run = small_disk / "run"
    with at_boundary(lambda trainer: fill(small_disk, left) if trainer.global_step == step else None):
        assert fit(trainings, run) == 2
    message = said()
    assert message.count("\n") == 0
    assert f"{run} cannot be written: No space left on device" in message
    assert "make room and give the same command again" in message
    (small_disk / "ballast").unlink()
    assert run_state(run) in ("interrupted", "failed")
    assert fit(trainings, run) == 0
    assert_same_run(run, trainings / "whole")


def test_a_disk_that_is_full_at_the_start_is_told(trainings: Path, small_disk: Path, half: Path, said: Said) -> None:
    run = copy_of(half, small_disk / "run")
    fill(small_disk)
    before = contents(run)
    assert fit(trainings, run) == 2
    assert "No space left on device" in said()
    assert contents(run) == before
    (small_disk / "ballast").unlink()
    assert fit(trainings, run) == 0
    assert_same_run(run, trainings / "whole")


def test_a_folder_that_cannot_be_written_is_told(trainings: Path, small_disk: Path, half: Path, said: Said) -> None:
    run = copy_of(half, small_disk / "run")
    finished = copy_of(trainings / "whole", small_disk / "finished")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for path in (run, small_disk / "new"):
        assert fit(trainings, path) == 2
        message = said()
        assert f"{path} cannot be written: Read-only file system" in message
        assert message.count("\n") == 0
    assert fit(trainings, finished) == 0  # there is nothing to write
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert fit(trainings, run) == 0
    assert_same_run(run, trainings / "whole")


def test_a_folder_that_cannot_be_is_told(trainings: Path, tmp_path: Path, said: Said) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/none/run"), tmp_path / ("x" * 300)):
        assert fit(trainings, path) == 2
        assert str(path) in (message := said())
        assert message.count("\n") == 0


def test_a_clock_that_goes_back_confuses_nothing(trainings: Path, half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = time.time
    monkeypatch.setattr(time, "time", lambda: given() - 1e8)
    assert fit(trainings, half) == 0
    assert_same_run(half, trainings / "whole")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(half)).Reload()
    for tag in board.Tags()["scalars"]:
        steps = [event.step for event in board.Scalars(tag)]
        assert steps == sorted(steps), tag


def chunk(folder: Path, split: str = "train") -> Path:
    (path,) = folder.glob(f"cache/*/{split}/chunk-*.bin")
    return path


@pytest.mark.parametrize(("kind", "workers"), [("truncated", 0), ("flipped", 0), ("deleted", 0), ("flipped", 2)])
def test_a_damaged_shard_is_told_and_the_run_goes_on_once_it_is_back(
    trainings: Path, tmp_path: Path, said: Said, kind: str, workers: int
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_text(folder)
    options = {"data__num_workers": workers}
    run = stopped(folder, str(tmp_path / "run"), 7, **options)
    content = chunk(folder).read_bytes()
    path = chunk(folder)
    damage(path, kind)
    said()
    assert fit(folder, run, **options) == 2
    message = said()
    assert path.name in message
    assert message.count("\n") == 0
    path.write_bytes(content)
    assert fit(folder, run, **options) == 0
    assert_same_run(run, trainings / "whole")


def test_other_data_in_the_place_of_the_training_data_is_refused(trainings: Path, tmp_path: Path, said: Said) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_text(folder)
    run = stopped(folder, str(tmp_path / "run"), 5)
    before = metrics(run)
    write_text(folder, documents=60)
    said()
    assert fit(folder, run) == 2
    assert "the training data is not what the checkpoint was trained on" in (message := said())
    assert message.count("\n") == 0
    assert metrics(run) == before
    write_text(folder)
    assert fit(folder, run) == 0
    assert_same_run(run, trainings / "whole")


def test_what_a_kill_tears_is_mended(trainings: Path, half: Path) -> None:
    """Rows, events and files that were being written, and events of steps that are taken again."""
    with (half / "metrics.csv").open("a") as file:
        file.write("8,0.1,0.2")
    (event_file,) = half.glob("events.*")
    with event_file.open("ab") as file:
        file.write(event_file.read_bytes()[-60:-20])
    for name in (
        ".run.json.partial",
        ".config.yaml.partial",
        ".metrics.csv.partial",
        ".curves.png",
        f".{event_file.name}.partial",
    ):
        (half / name).write_bytes(b"torn")
    for name in (".step-00000008.ckpt.partial", ".last.ckpt.partial", ".step-00000008.sha256.partial"):
        (half / "checkpoints" / name).write_bytes(b"torn")
    (half / "checkpoints" / ".step-00000009.ckpt.partial").mkdir()
    (half / "checkpoints" / "step-00000008.sha256").write_text("0  step-00000008.ckpt\n")
    assert fit(trainings, half) == 0
    assert_same_run(half, trainings / "whole")
    assert not [path for path in half.rglob("*") if path.name.endswith(".partial")]
    assert not (half / ".curves.png").exists()
    assert len(list(half.glob("checkpoints/*.sha256"))) == len(list(half.glob("checkpoints/step-*.ckpt")))


@pytest.mark.parametrize("content", [None, "", "a: [", "- 1"])
def test_a_damaged_config_is_written_anew(trainings: Path, half: Path, content: str | None) -> None:
    (half / "config.yaml").unlink()
    if content is not None:
        (half / "config.yaml").write_text(content)
    assert fit(trainings, half, trainer__max_steps=3) == 2
    assert fit(trainings, half) == 0
    given = (trainings / "whole" / "config.yaml").read_text()
    assert (half / "config.yaml").read_text() == given


def test_a_run_folder_removed_during_the_training_is_told(trainings: Path, tmp_path: Path, said: Said) -> None:
    run = tmp_path / "run"

    def remove(trainer: Trainer) -> None:
        if trainer.global_step == 5:
            shutil.rmtree(run)

    with at_boundary(remove):
        assert fit(trainings, run) in (0, 2)
    assert said().count("\n") == 0


def test_a_damaged_metrics_file_is_set_aside(trainings: Path, half: Path, said: Said) -> None:
    (half / "metrics.csv").write_bytes(b"\x00\xff" * 100)
    assert fit(trainings, half) == 0
    assert "metrics.csv.damaged" in said()
    assert (half / "metrics.csv.damaged").read_bytes() == b"\x00\xff" * 100
    assert [row["step"] for row in metrics(half)] == [
        row["step"] for row in metrics(trainings / "whole") if int(row["step"]) > 7
    ]
    assert events(half) == events(trainings / "whole")
    assert (read_record(half) or {})["state"] == "finished"


def test_an_unknown_error_keeps_its_traceback(trainings: Path, tmp_path: Path) -> None:
    """Only what a user can mend is told in one line."""

    def fail(trainer: Trainer) -> Any:
        raise KeyError("a bug")

    with at_boundary(fail), pytest.raises(KeyError, match="a bug"):
        fit(trainings, tmp_path / "run")
    assert run_state(tmp_path / "run") == "failed"
