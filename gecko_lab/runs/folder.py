"""The folder of a run that is trained: made or taken over, held, and written down in `run.json` and `config.yaml`."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError
from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.files import write_json, write_yaml
from gecko_lab.runs.identity import differences, identity
from gecko_lab.runs.lock import FILE_NAME as LOCK_FILE
from gecko_lab.runs.lock import RunLock
from gecko_lab.runs.metrics_file import METRICS_FILE
from gecko_lab.runs.record_file import CONFIG_FILE, FORMAT, FORMAT_VERSION, RECORD_FILE, State, read_record
from gecko_lab.yaml_files import read_yaml

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
        made = {CONFIG_FILE, RECORD_FILE, LOCK_FILE, "hparams.yaml", METRICS_FILE}
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
