"""A run is a folder: what it is (`run.json`, `config.yaml`), whose it is, and where it goes on."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from gecko_lab.configuration import read_yaml
from gecko_lab.errors import ConfigurationError
from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.files import write_json, write_yaml
from gecko_lab.runs.identity import differences, identity
from gecko_lab.runs.lock import FILE_NAME as LOCK_FILE
from gecko_lab.runs.lock import RunLock, is_locked

CONFIG_FILE = "config.yaml"
RECORD_FILE = "run.json"
FORMAT = "gecko-lab-run"
FORMAT_VERSION = 1

State = Literal["running", "finished", "interrupted", "failed"]

# What a process leaves that died before it wrote the record.
_BEFORE_RECORD = {LOCK_FILE, CONFIG_FILE, f".{CONFIG_FILE}.partial", f".{RECORD_FILE}.partial"}


class RunFolder:
    """The folder of a training run, held by this process.

    Args:
        path: of the folder.
        settings: all settings, resolved; what `config.yaml` says.

    Attributes:
        record: what `run.json` says.
        checkpoint: the checkpoint that training goes on from; none for a new run.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.record: dict[str, Any] = {}
        self.checkpoint: Path | None = None
        self._lock = RunLock(path)
        self._is_new = self._has_begun = False

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.record.get("state") == "finished"

    def claim(self, command: list[str]) -> None:
        """Make the folder or take it over, find the checkpoint to go on from, and write down that a run begins.

        Args:
            command: the command line.

        Raises:
            ConfigurationError: the folder holds another run or something else.
            RunLocked: another process works on it; nothing was changed.
            DamagedCheckpoint: all its checkpoints are damaged.
            OSError: it cannot be written.
        """
        if self._find():  # a finished run is left as it is, to the last byte
            return
        try:
            self.path.mkdir(parents=True)
            self._is_new = True
        except FileExistsError:
            if not self.path.is_dir():
                raise ConfigurationError(f"--run: {self.path} is not a folder") from None
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigurationError(f"--run: {self.path} cannot be made: {error.strerror}") from error
        self._lock.acquire()
        if self._find():  # by who had the lock until now
            return
        self.checkpoint = CheckpointFolder(self.path / "checkpoints").newest(set_aside=True)
        if not self.record:
            self.record = {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "state": "running",
                "identity": identity(self.settings),
                "name": self.path.name,
                "created": _now(),
                "seed": self.settings.get("seed_everything"),
                "starts": [],
            }
        write_yaml(self.path / CONFIG_FILE, dict(self.settings))
        start = {"time": _now(), "host": socket.gethostname(), "pid": os.getpid(), "command": command}
        self.record["starts"].append(start)
        self._has_begun = True
        self.update(state="running")

    def update(self, **values: Any) -> None:
        """Change keys of `run.json`."""
        self.record |= values
        write_json(self.path / RECORD_FILE, self.record)

    def end(self, state: State, **values: Any) -> None:
        """Write down how this start of the run ended, and let go of the folder."""
        try:
            if self._has_begun:
                self.record["starts"][-1] |= {"end": _now(), "state": state}
                self.update(state=state, **values)
        finally:
            self._lock.release()

    @property
    def is_untouched(self) -> bool:
        """Whether this process has made the folder and trained nothing in it."""
        trained = any("step" in start for start in self.record.get("starts", []))
        return self._is_new and self._lock.is_held and not trained

    def release(self) -> None:
        """Let go of the folder."""
        self._lock.release()

    def forget(self) -> None:
        """Remove what a mistake left before the first step: the folder's name is free again."""
        made = {CONFIG_FILE, RECORD_FILE, LOCK_FILE, "hparams.yaml", "metrics.csv"}
        try:
            found = list(self.path.iterdir()) if self.path.is_dir() else []
            if found and all(path.name in made or path.name.startswith("events.out.tfevents.") for path in found):
                for path in sorted(found, key=lambda path: path.name == LOCK_FILE):  # the lock to the last
                    path.unlink()
                self.path.rmdir()
                if self.path.parent == Path("runs") and not any(self.path.parent.iterdir()):
                    self.path.parent.rmdir()
        finally:
            self._lock.release()

    def _find(self) -> bool:
        """Read what the folder holds; whether it is this run, finished."""
        self.record = read_record(self.path) or {}
        if self.record:
            self._compare()
        elif self.path.is_dir():
            others = {path.name for path in self.path.iterdir()} - _BEFORE_RECORD
            if others:
                raise ConfigurationError(
                    f"--run: {self.path} holds something else than a run (there is {sorted(others)[0]}, and no "
                    f"{RECORD_FILE}); name another folder"
                )
        return self.is_finished

    def _compare(self) -> None:
        """Refuse to go on with a run of other settings."""
        if self.record["identity"] == identity(self.settings):
            return
        try:
            keys = differences(self.settings, read_yaml(self.path / CONFIG_FILE))
        except ConfigurationError:  # the record alone says that they differ
            keys = []
        which = f" in {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}" if keys else ""
        raise ConfigurationError(
            f"--run: {self.path} holds a run of other settings, which differ{which}; name another folder, or start "
            "over beside it with --fresh"
        )


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a folder's `run.json` says; none where it has none.

    Raises:
        ConfigurationError: it is damaged or of another program.
    """
    path = folder / RECORD_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"{path} cannot be read ({reason}); {_remedy(folder)}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ConfigurationError(f"{path} is not the record of a run; name another folder")
    if record.get("format_version") != FORMAT_VERSION:
        raise ConfigurationError(f"{path} is of format {record.get('format_version')}, this version reads 1")
    if not _is_whole(record):
        raise ConfigurationError(f"{path} is damaged: it lacks what the record of a run holds; {_remedy(folder)}")
    return record


def _is_whole(record: dict[str, Any]) -> bool:
    """Whether a record holds what is read from it."""
    return (
        isinstance(record.get("identity"), str)
        and record.get("state") in get_args(State)
        and isinstance(starts := record.get("starts"), list)
        and all(isinstance(start, dict) for start in starts)
        and all(isinstance(record.get(name, {}), dict) for name in ("progress", "metrics"))
        and all(_is_number(value) for name in ("progress", "metrics") for value in record.get(name, {}).values())
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _remedy(folder: Path) -> str:
    """How to go on without a record."""
    return f"--run ANOTHER --ckpt_path {folder / 'checkpoints' / 'last.ckpt'} goes on beside it"


def run_state(folder: Path) -> State | None:
    """The state of a run as it is: one that says it is running but that no process holds was interrupted."""
    record = read_record(folder)
    if record is None:
        return None
    state: State = record["state"]
    return "interrupted" if state == "running" and not is_locked(folder) else state


def find_place(run: Path | None, name: str, settings: Mapping[str, Any], *, fresh: bool, main_process: bool) -> Path:
    """The folder of a run.

    Args:
        run: as the user named it; by default `runs/NAME-IDENTITY`.
        name: of the configuration.
        settings: all settings, resolved.
        fresh: beside that one, where it exists.
        main_process: others find the folder that the main process has made.
    """
    path = run if run is not None else Path("runs") / f"{name}-{identity(settings)[:8]}"
    if not fresh:
        return path
    made = path
    for candidate in numbered(path):
        if not candidate.exists():
            return candidate if main_process else made
        made = candidate
    raise AssertionError("numbers do not end")


def numbered(path: Path) -> Iterator[Path]:
    """`path`, `path-2`, `path-3`, …"""
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
