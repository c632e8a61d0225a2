"""Checkpoints on the disk are whole and as they were written, or are not taken for checkpoints."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gecko_lab.runs import checkpoint_folder
from gecko_lab.runs.checkpoint_folder import CheckpointFolder, DamagedCheckpoint, step_of, verify


def write(folder: CheckpointFolder, step: int, content: bytes = b"weights", *, sharded: bool = False) -> Path:
    """A checkpoint: a file, or a folder of them."""
    aside = folder.aside(step)
    aside.parent.mkdir(parents=True, exist_ok=True)
    if sharded:
        (aside / "shards").mkdir(parents=True)
        (aside / "shards" / "0.bin").write_bytes(content)
        (aside / "metadata").write_bytes(b"about")
    else:
        aside.write_bytes(content)
    return folder.commit(step)


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return CheckpointFolder(tmp_path / "checkpoints")


@pytest.mark.parametrize("sharded", [False, True])
def test_commit_can_be_verified_here_and_by_hand(folder: CheckpointFolder, sharded: bool) -> None:
    for step in (3, 12):
        write(folder, step, sharded=sharded)
    assert folder.steps() == [3, 12]
    assert folder.newest(set_aside=False) == folder.checkpoint(12)
    assert step_of(folder.path / "last.ckpt") == 12
    assert not list(folder.path.glob(".*"))
    verify(folder.path / "last.ckpt")
    sums = [path.name for path in folder.path.glob("*.sha256")]
    assert subprocess.run(["sha256sum", "--check", "--quiet", *sums], cwd=folder.path).returncode == 0


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 99), bit=st.integers(0, 7), keep=st.integers(0, 99), flip=st.booleans())
def test_verify_refuses_any_flipped_bit_and_any_shorter_file(
    tmp_path: Path, position: int, bit: int, keep: int, flip: bool
) -> None:
    folder = CheckpointFolder(tmp_path)
    path = write(folder, 1, bytes(range(100)))
    verify(path)
    content = bytearray(range(100))
    content[position] ^= 1 << bit
    path.write_bytes(content if flip else content[:keep])
    with pytest.raises(DamagedCheckpoint, match="is damaged"):
        verify(path)


@pytest.mark.parametrize("change", ["shard changed", "shard gone", "one more"])
def test_verify_refuses_a_sharded_checkpoint_that_changed(folder: CheckpointFolder, change: str) -> None:
    path = write(folder, 1, sharded=True)
    if change == "shard changed":
        (path / "metadata").write_bytes(b"other")
    elif change == "shard gone":
        (path / "metadata").unlink()
    else:
        (path / "more").write_bytes(b"")
    with pytest.raises(DamagedCheckpoint):
        verify(path)


def test_newest_passes_over_what_is_damaged(folder: CheckpointFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2, 3):
        write(folder, step)
    folder.checkpoint(3).write_bytes(b"weightz")
    assert folder.newest(set_aside=False) == folder.checkpoint(2)
    assert folder.steps() == [1, 2, 3]
    assert folder.newest(set_aside=True) == folder.checkpoint(2)
    assert folder.steps() == [1, 2]
    assert folder.path.joinpath("step-00000003.ckpt.damaged").read_bytes() == b"weightz"
    assert capsys.readouterr().err.count("going on with the one before it") == 2
    for step in (1, 2):
        folder.checkpoint(step).write_bytes(b"")
    for _ in range(2):  # a run does not begin anew in the folder of one that cannot go on
        with pytest.raises(DamagedCheckpoint, match="every checkpoint is damaged"):
            folder.newest(set_aside=True)


def test_steps_knows_its_own_names_alone(folder: CheckpointFolder) -> None:
    assert folder.steps() == []
    write(folder, 123_456_789)
    for name in ("step-1.ckpt", "step-000000002.ckpt", "step-٠٠٠٠٠٠٠٣.ckpt", "step-00000004.ckpt.damaged", "x.ckpt"):
        (folder.path / name).write_bytes(b"")
    assert folder.steps() == [123_456_789]
    with pytest.raises(ValueError, match="not named after a step"):
        step_of(folder.path / "x.ckpt")


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("replaces", [False, True])
def test_a_kill_during_commit_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool, replaces: bool
) -> None:
    """At each change on the disk: the checkpoint before it, the one that is replaced, or the new one is whole."""
    folder, copies = CheckpointFolder(tmp_path / "checkpoints"), []
    write(folder, 1, b"before")
    if replaces:
        write(folder, 2, b"replaced", sharded=sharded)
    given_replace, given_unlink = os.replace, os.unlink

    def snapshot() -> None:
        copies.append(Path(shutil.copytree(folder.path, tmp_path / str(len(copies)), symlinks=True)))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (snapshot(), given_replace(*paths)))
        patch.setattr(os, "unlink", lambda *paths, **named: (snapshot(), given_unlink(*paths, **named)))
        write(folder, 2, b"new", sharded=sharded)
    assert len(copies) >= 4
    for copy in copies:
        left = CheckpointFolder(copy)
        newest = left.newest(set_aside=False)
        assert newest is not None
        if replaces and not sharded:
            assert newest == left.checkpoint(2)
        left.discard_asides()
        assert not list(copy.glob(".*"))
        assert len(list(copy.glob("*.sha256"))) == len(left.steps())
    assert folder.newest(set_aside=False) == folder.checkpoint(2)
    sums = [path.name for path in folder.path.glob("*.sha256")]
    assert subprocess.run(["sha256sum", "--check", "--quiet", *sums], cwd=folder.path).returncode == 0


def test_remove_takes_the_checksums_too(folder: CheckpointFolder) -> None:
    write(folder, 1)
    write(folder, 2, sharded=True)
    for step in (1, 2):
        folder.remove(step)
    assert sorted(path.name for path in folder.path.iterdir()) == ["last.ckpt"]


def test_a_file_system_without_links_has_no_names(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    write(folder, 1)
    assert folder.newest(set_aside=False) == folder.checkpoint(1)
    assert not (folder.path / "last.ckpt").exists()


def test_digests_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    whole = checkpoint_folder._digests(tmp_path / "file")
    monkeypatch.setattr(checkpoint_folder, "_READ_BYTES", 7)
    assert checkpoint_folder._digests(tmp_path / "file") == whole
