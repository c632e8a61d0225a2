"""`run.json` and `config.yaml`: what a run's folder says about it, for whoever reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

from gecko_lab.errors import ConfigurationError
from gecko_lab.json_record import read_json_record
from gecko_lab.runs.lock import is_locked

CONFIG_FILE = "config.yaml"
RECORD_FILE = "run.json"
FORMAT = "gecko-lab-run"
FORMAT_VERSION = 1

State = Literal["running", "finished", "interrupted", "failed"]


def read_record(folder: Path) -> dict[str, Any] | None:
    """What a folder's `run.json` says; none where it has none.

    Raises:
        ConfigurationError: it is damaged or of another program.
    """
    path = folder / RECORD_FILE
    remedy = f"--run ANOTHER --ckpt_path {folder / 'checkpoints' / 'last.ckpt'} goes on beside it"
    record = read_json_record(path, of="run", format=FORMAT, version=FORMAT_VERSION, remedy=remedy)
    if record is not None and not _is_whole(record):
        raise ConfigurationError(f"{path} is damaged: it lacks what the record of a run holds; {remedy}")
    return record


def run_state(folder: Path) -> State | None:
    """The state of a run as it is; none where there is no run.

    Raises:
        ConfigurationError: its record is damaged or of another program.
    """
    record = read_record(folder)
    return None if record is None else state_of(record, folder)


def written_step(folder: Path) -> int:
    """The step of a run's last checkpoint, from which it goes on; 0 where there is none.

    Raises:
        ConfigurationError: its record is damaged or of another program.
    """
    return int((read_record(folder) or {}).get("progress", {}).get("step", 0))


def state_of(record: dict[str, Any], folder: Path) -> State:
    """As the record says, but one that says it is running and that no process holds was interrupted."""
    state: State = record["state"]
    return "interrupted" if state == "running" and not is_locked(folder) else state


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
