"""One process at a time; the lock goes with its process, and with nothing else."""

import multiprocessing
import os
import signal
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from gecko_lab.runs.lock import RunLock, RunLocked, is_locked

LONGEST = 60


def hold(folder: Path, channel: Connection) -> None:
    """Lock, say so, and wait, with a child that lives on."""
    RunLock(folder).acquire()
    if (child := os.fork()) == 0:
        time.sleep(LONGEST)
        os._exit(0)
    channel.send(child)
    time.sleep(LONGEST)


def test_a_process_that_is_killed_lets_go_though_its_children_live(tmp_path: Path) -> None:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(LONGEST)
    child = ours.recv()
    try:
        assert is_locked(tmp_path)
        before = (tmp_path / ".lock").read_bytes()
        with pytest.raises(RunLocked) as caught:
            RunLock(tmp_path).acquire()
        assert f"process {process.pid} on {socket.gethostname()}, since 2" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert (tmp_path / ".lock").read_bytes() == before
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert not is_locked(tmp_path)
        lock = RunLock(tmp_path)
        lock.acquire()
        lock.release()
        os.kill(child, 0)  # it lives
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_is_known_in_its_own_process_and_survives_a_look_at_it(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert is_locked(tmp_path)
    with pytest.raises(RunLocked, match="by this process"):
        RunLock(tmp_path).acquire()
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        assert pool.apply(is_locked, (tmp_path,))
        lock.release()
        assert not pool.apply(is_locked, (tmp_path,))
    assert not is_locked(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": 1}', b"\xff" * 5000])
def test_what_a_lock_file_holds_does_not_matter(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".lock").write_bytes(content)
    assert not is_locked(tmp_path)
    lock = RunLock(tmp_path)
    lock.acquire()
    assert is_locked(tmp_path)
    lock.release()


def test_a_lock_is_of_the_file_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had the lock removes the folder between another's opening and locking of the file."""
    import fcntl

    given, calls = fcntl.lockf, []

    def lockf(*arguments: int) -> None:
        if not calls:
            (tmp_path / "run" / ".lock").unlink()
            (tmp_path / "run").rmdir()
        calls.append(arguments)
        given(*arguments)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    (tmp_path / "run").mkdir()
    lock = RunLock(tmp_path / "run")
    lock.acquire()
    assert len(calls) == 2
    assert (tmp_path / "run" / ".lock").exists()
    lock.release()
