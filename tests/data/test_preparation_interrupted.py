"""Preparing that is killed, stopped, without room or done twice at once: nothing is lost, done again or half there."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.data import parts, preparation
from gecko_lab.data.errors import DataError
from gecko_lab.data.split import TRAIN
from tests.data.corpora import TroubledTokenizer
from tests.data.preparing import content, few_files, prepare, texts
from tests.source_tree import REPOSITORY

SCRIPT = """
import sys
from gecko_lab.data import parts
from gecko_lab.data.errors import DataError
from gecko_lab.data.preparation import Preparation
from tests.data.corpora import TroubledTokenizer
parts._MIN_PART_BYTES = parts._MAX_PART_BYTES = 1
try:
    options = {"folder": sys.argv[2], "validation_fraction": 0.5, "num_workers": 2}
    Preparation(sys.argv[1], TroubledTokenizer(), **options).run(False)
except DataError as error:
    sys.exit(str(error))
"""


def start(corpus: Path, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SCRIPT, str(corpus), str(folder)]
    return subprocess.Popen(command, cwd=REPOSITORY, start_new_session=True, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)


def finished(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob(f".{folder.name}.partial/part-??????"))


def is_running(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.usefixtures("a_part_each")
def test_next_run_goes_on_where_one_was_stopped(
    corpus: Path, tmp_path: Path, prepared_parts: list[str], end: signal.Signals
) -> None:
    folder = tmp_path / "out" / "tokens"
    num_files = few_files(corpus, "zz.txt", "PAUSE")
    with start(corpus, folder) as process:
        wait_for(lambda: len(finished(folder)) == num_files - 1, process)
        if end == signal.SIGKILL:
            process.kill()  # the parent alone: its workers notice
        else:
            os.killpg(process.pid, end)  # as Ctrl-C in a terminal
        assert process.stderr is not None
        told = process.stderr.read()  # ends when all of them are gone
    while is_running(process.pid):
        time.sleep(0.05)
    assert told.count("Traceback") <= 1, "a worker complains"
    assert not folder.exists()
    prepare(str(corpus), folder, validation_fraction=0.5)
    assert prepared_parts == ["zz.txt"]
    assert sorted(os.listdir(tmp_path / "out")) == [".tokens.lock", "tokens"]
    assert content(folder) == content(prepare(str(corpus), tmp_path / "never-stopped", validation_fraction=0.5).folder)


@pytest.mark.usefixtures("a_part_each")
def test_worker_that_dies_is_an_error_that_names_its_file(
    corpus: Path, tmp_path: Path, prepared_parts: list[str]
) -> None:
    folder = tmp_path / "out" / "tokens"
    num_files = few_files(corpus, "zz.txt", "DIE")
    with pytest.raises(DataError, match=rf"a worker process died \(signal 9.*{corpus}/zz.txt\. The parts"):
        prepare(str(corpus), folder, TroubledTokenizer(), num_workers=2, validation_fraction=0.5)
    assert not folder.exists()
    assert multiprocessing.active_children() == []
    kept = len(finished(folder))
    prepare(str(corpus), folder, validation_fraction=0.5)
    assert len(prepared_parts) == num_files - kept
    assert "zz.txt" in prepared_parts


def run_until(call: int, corpus: Path, folder: Path) -> None:
    """Prepares, and ends like a killed process at that call of the functions that change a folder."""
    remaining = call

    def ending(function: Callable[..., Any]) -> Callable[..., Any]:
        def until(*arguments: Any, **options: Any) -> Any:
            nonlocal remaining
            remaining -= 1
            if remaining < 0:
                os._exit(9)
            return function(*arguments, **options)

        return until

    for name in ("rename", "fsync", "unlink", "mkdir"):
        setattr(os, name, ending(getattr(os, name)))
    prepare(str(corpus), folder, validation_fraction=0.3)
    os._exit(0)


def test_killed_at_every_step(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_MIN_PART_BYTES", 2500)
    monkeypatch.setattr(parts, "_MAX_PART_BYTES", 2500)
    few_files(corpus, "zz.txt", "nothing")
    (corpus / "00.txt").unlink()
    (corpus / "02.txt").unlink()
    expected = content(prepare(str(corpus), tmp_path / "never-killed", validation_fraction=0.3).folder)
    context = multiprocessing.get_context("fork")
    for call in range(1000):
        folder = tmp_path / str(call) / "tokens"
        process = context.Process(target=run_until, args=(call, corpus, folder))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert not folder.exists() or content(folder) == expected
        prepare(str(corpus), folder, validation_fraction=0.3)
        assert content(folder) == expected, f"killed at call {call}"
    assert 20 < call < 999, call


def test_what_another_preparation_left_is_not_used(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared_parts: list[str]
) -> None:
    monkeypatch.setattr(parts, "_MIN_PART_BYTES", 10_000)
    folder = tmp_path / "out" / "tokens"
    monkeypatch.setattr(preparation, "assemble", lambda *arguments: os.stat("/nowhere"))
    with pytest.raises(DataError, match="cannot be written"):
        prepare(str(corpus), folder)
    monkeypatch.undo()
    assert len(finished(folder)) > 1
    (corpus / "00.txt").write_text("something else")
    assert b"something else" in texts(prepare(str(corpus), folder, validation_fraction=0.0), TRAIN)
    assert sorted(os.listdir(tmp_path / "out")) == [".tokens.lock", "tokens"]


def prepare_on_a_small_disk(corpus: Path, folder: Path, num_workers: int, results: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # a longer file cannot be written
    try:
        prepare(str(corpus), folder, num_workers=num_workers)
    except DataError as error:
        results.put(str(error))
    except BaseException as error:
        results.put(repr(error))


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.usefixtures("a_part_each")
def test_full_disk(corpus: Path, tmp_path: Path, num_workers: int) -> None:
    folder = tmp_path / "out" / "tokens"
    few_files(corpus, "zz.txt", "long " * 20_000)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    process = context.Process(target=prepare_on_a_small_disk, args=(corpus, folder, num_workers, results))
    process.start()
    message = results.get()
    process.join()
    assert "out/tokens cannot be written: [Errno 27] File too large" in message
    assert not folder.exists()
    assert prepare(str(corpus), folder).num_tokens(TRAIN) > 0


def prepare_in_process(corpus: Path, folder: Path, results: Any) -> None:
    whole = preparation.assemble

    def slow(*arguments: Any) -> Any:
        results.put("prepared")
        time.sleep(0.2)
        return whole(*arguments)

    preparation.assemble = slow
    results.put(prepare(str(corpus), folder).manifest)


def test_processes_prepare_the_same_once(corpus: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=prepare_in_process, args=(corpus, tmp_path / "tokens", results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in range(4)]
    for process in processes:
        process.join()
    assert found.count("prepared") == 1
    manifests = [manifest for manifest in found if manifest != "prepared"]
    assert manifests == [manifests[0]] * 3
