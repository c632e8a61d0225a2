"""`gecko-lab dashboard`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gecko_lab.dashboard.server import Server, ServerFailed, require_free
from gecko_lab.errors import ConfigurationError
from gecko_lab.runs.lock import RunLock, RunLocked
from gecko_lab.runs.record_file import RECORD_FILE

if TYPE_CHECKING:
    from gecko_lab.dashboard.watcher import Watcher

FOLDER_NAME = ".dashboard"
_MARK = ".gecko-lab-dashboard"
_LOG = "tensorboard.log"


def dashboard(
    runs: str | None = None,
    *,
    port: int = 6006,
    host: str = "127.0.0.1",
    refresh: float = 10.0,
    seeds: Literal["auto", "show", "hide"] = "auto",
    folder: str | None = None,
    once: bool = False,
) -> None:
    """Compare the variants of a grid in TensorBoard, also while it runs.

    Time Series and Custom Scalars show each variant's mean over its seeds, the latter with 95 % intervals, HParams a
    table with the axes as columns, Images the differences to the base, Text the report's tables with verdicts. Ctrl-C
    ends it.

    Example: gecko-lab dashboard runs/ablate_awm --port 6007

    Args:
        runs: a grid's folder, or one that holds runs; those of no grid are compared by the settings that differ.
        port: of the page; 0: any that is free.
        host: that it is served on; anything but this machine lets others see the page.
        refresh: seconds from one look at the runs to the next.
        seeds: whether each run is shown beside the means: `show`, `hide`, or `auto`, where there are no more than 40.
        folder: for what TensorBoard reads, which is made from the runs and may be removed; by default `.dashboard`
            beside them.
        once: write that folder, and serve nothing.
    """
    if runs is None:
        raise ConfigurationError("dashboard: of what? Name a grid's folder: gecko-lab dashboard runs/ablate_awm")
    if not refresh >= 1:
        raise ConfigurationError(f"--refresh must be at least 1 second, got {refresh}")
    path = Path(runs).expanduser()
    if not path.exists():
        raise ConfigurationError(f"dashboard: {path} is not there; name a grid's folder, or one that holds runs")
    if not once:
        require_free(host, port)
    beside = path.parent if path.is_file() or (path / RECORD_FILE).exists() else path
    with _claimed(beside / FOLDER_NAME if folder is None else Path(folder).expanduser()) as place:
        if once:
            watcher = _watcher(path, place, seeds)
            watcher.look()
            watcher.report()
            print(f"written      {place}\nto see it    tensorboard --load_fast=false --logdir {place}")
            return
        log = place / _LOG
        with Server(place, host=host, port=port, reload_seconds=max(refresh / 2, 1), log=log) as server:
            watcher = _watcher(path, place, seeds)  # while the server's process imports what it needs
            watcher.look()
            print(f"dashboard    {server.serve()}\nto end it    Ctrl-C", *watcher.notes(), sep="\n", flush=True)
            try:
                _keep_up(watcher, server, refresh)
            except KeyboardInterrupt:
                print()


def _watcher(path: Path, place: Path, seeds: Literal["auto", "show", "hide"]) -> Watcher:
    from gecko_lab.dashboard.watcher import Watcher

    return Watcher(path, place, seeds=seeds)


def _keep_up(watcher: Watcher, server: Server, refresh: float) -> None:
    """Look again and again, until the server ends.

    Raises:
        ServerFailed: it has ended by itself.
    """
    told = _told(watcher.report_if_due, "")
    while not server.ended_within(refresh):
        told = _told(watcher.look, told)
        told = _told(watcher.report_if_due, told)
    raise ServerFailed(f"TensorBoard ended: {server.last_words()}")


def _told(action: Callable[[], None], told: str) -> str:
    """Do it; what went wrong, which is told unless it was before: a file is being replaced, a disk is full."""
    try:
        action()
    except (ConfigurationError, OSError) as error:
        if str(error) != told:
            print(f"gecko-lab: {error}; what was read before stays", file=sys.stderr, flush=True)
        return str(error)
    return told


@contextmanager
def _claimed(place: Path) -> Iterator[Path]:
    """The folder, empty, for this process alone.

    Raises:
        ConfigurationError: another dashboard writes it, it holds something else, or it cannot be written.
    """
    lock = RunLock(place)
    if place.is_dir() and any(place.iterdir()) and not (place / _MARK).exists():
        raise ConfigurationError(f"{place} holds something else than a dashboard; name another with --folder")
    try:
        lock.acquire()
        (place / _MARK).touch()
        for path in place.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in (place / _MARK, lock.path):
                path.unlink()
    except RunLocked as error:
        raise ConfigurationError(
            f"a dashboard that is open already writes {place}; close it, or name another folder with --folder"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"{place} cannot be written ({error.strerror}); name a folder that can with --folder"
        ) from error
    try:
        yield place
    finally:
        lock.release()
