"""A run is a folder: what it is (`run.json`, `config.yaml`), whose it is, and where it goes on."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from gecko_lab.errors import ConfigurationError
from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.files import write_json, write_yaml
from gecko_lab.runs.identity import differences, identity
from gecko_lab.runs.lock import RunLock, is_locked

CONFIG_FILE = "config.yaml"
RECORD_FILE = "run.json"
FORMAT = "gecko-lab-run"
FORMAT_VERSION = 1

State = Literal["running", "finished", "interrupted", "failed"]


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
        self._is_new = False

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
            RunLocked: another process works on it.
            DamagedCheckpoint: all its checkpoints are damaged.
            OSError: it cannot be written.
        """
        self._is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        ours = {CONFIG_FILE, RECORD_FILE, ".lock"}
        if not self._is_new and not any((self.path / name).exists() for name in ours) and any(self.path.iterdir()):
            raise ConfigurationError(f"--run: {self.path} holds something else than a run; name another folder")
        self._lock.acquire()
        self.record = read_record(self.path) or {}
        if self.record:
            self._compare()
        if self.is_finished:
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
        self.update(state="running")

    def update(self, **values: Any) -> None:
        """Change keys of `run.json`."""
        self.record |= values
        write_json(self.path / RECORD_FILE, self.record)

    def end(self, state: State, **values: Any) -> None:
        """Write down how this start of the run ended, and let go of the folder."""
        if self.record.get("starts"):
            self.record["starts"][-1] |= {"end": _now(), "state": state}
            self.update(state=state, **values)
        self._lock.release()

    @property
    def is_untouched(self) -> bool:
        """Whether this process has made the folder and trained nothing in it."""
        return self._is_new and all("step" not in start for start in self.record.get("starts", []))

    def release(self) -> None:
        """Let go of the folder."""
        self._lock.release()

    def forget(self) -> None:
        """Remove what a mistake left before the first step: the folder's name is free again."""
        self._lock.release()
        made = {CONFIG_FILE, RECORD_FILE, ".lock", "hparams.yaml", "metrics.csv"}
        found = list(self.path.iterdir()) if self.path.is_dir() else []
        if found and all(path.name in made or path.name.startswith("events.out.tfevents.") for path in found):
            for path in found:
                path.unlink()
            self.path.rmdir()
            if self.path.parent == Path("runs") and not any(self.path.parent.iterdir()):
                self.path.parent.rmdir()

    def _compare(self) -> None:
        """Refuse to go on with a run of other settings."""
        if self.record["identity"] == identity(self.settings):
            return
        try:
            theirs = yaml.safe_load((self.path / CONFIG_FILE).read_text(encoding="utf-8"))
            keys = differences(self.settings, theirs)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, AttributeError):
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
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} cannot be read ({error})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT or not isinstance(record.get("identity"), str):
        raise ConfigurationError(f"{path} is not the record of a run")
    if record.get("format_version") != FORMAT_VERSION:
        raise ConfigurationError(f"{path} is of format {record.get('format_version')}, this version reads 1")
    return record


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
