"""What a run asks of SLURM."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from gecko_lab.durations import read
from gecko_lab.errors import ConfigurationError, nearest

_MEMORY = re.compile(r"[0-9]+ ?(K|M|G|T)B?", re.IGNORECASE)
_CPU = ("cpu", "mps", "tpu")


@dataclass(frozen=True)
class SlurmOptions:
    """The key `grid.slurm`, or the flags `--slurm.NAME VALUE`: what each run asks of SLURM.

    Attributes:
        time: of a job, in minutes. A run that takes longer stops with a checkpoint shortly before, is queued again, and
            goes on.
        partition: `sbatch --partition`.
        account: `sbatch --account`.
        qos: `sbatch --qos`.
        constraint: `sbatch --constraint`.
        cpus: of a process.
        gpus: of a node; none: as many as `trainer.devices` says where it trains on GPUs.
        memory: of a node, such as `64G`.
        warning: seconds before its end, or before its preemption, at which a run is told.
        setup: lines of shell before the run: `module load cuda`.
        sbatch: any other option of `sbatch`, by its long name.
    """

    time: float = 240.0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus: int | None = None
    gpus: int | None = None
    memory: str | None = None
    warning: int = 120
    setup: tuple[str, ...] = ()
    sbatch: dict[str, Any] = field(default_factory=dict)

    def parameters(self, trainer: Mapping[str, Any]) -> dict[str, Any]:
        """What submitit's `SlurmExecutor` is told.

        Args:
            trainer: settings of the runs: nodes, devices, accelerator.
        """
        devices = trainer.get("devices", "auto")
        processes = int(devices) if str(devices).isdecimal() else self.gpus or 1
        gpus = self.gpus
        if gpus is None and trainer.get("accelerator", "auto") in ("gpu", "cuda"):
            gpus = processes
        given = {
            "time": max(1, round(self.time)),
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "nodes": int(trainer.get("num_nodes", 1)),
            "ntasks_per_node": processes,
            "cpus_per_task": self.cpus,
            "gpus_per_node": gpus,
            "signal_delay_s": self.warning,
            "setup": list(self.setup) or None,
            "additional_parameters": {
                "requeue": True,
                **({} if self.memory is None else {"mem": self.memory.replace(" ", "")}),
                **self.sbatch,
            },
        }
        return {name: value for name, value in given.items() if value is not None}


_NAMES = tuple(field.name for field in fields(SlurmOptions))


def read_slurm(value: Any, where: str) -> dict[str, Any]:
    """Read the key `slurm` of a grid.

    Args:
        value: its value; none: nothing is asked.
        where: the key, for messages.

    Returns:
        Arguments of `SlurmOptions`, those that are given.

    Raises:
        ConfigurationError: for a key that is not there, or a value that cannot be.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected keys and values such as {{partition: gpu, time: 4 hours}}")
    given: dict[str, Any] = {}
    for name, content in value.items():
        place = f"{where}.{name}"
        if name not in _NAMES:
            raise ConfigurationError(f"{place}: unknown key{nearest(str(name), _NAMES)}")
        if content is None:
            continue
        given[name] = _READERS[name](content, place)
    return given


def _time(value: Any, where: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        number, unit = read(f"{value} minutes" if is_number else value, where)
    except ConfigurationError:
        number, unit = 0, "steps"
    if unit != "minutes" or number < 1:
        raise ConfigurationError(f"{where}: expected minutes or hours, such as 90 or '4 hours', got {value!r}")
    return number


def _text(value: Any, where: str) -> str:
    if isinstance(value, Mapping | list | bool):
        raise ConfigurationError(f"{where}: expected a name, got {value!r}")
    return str(value)


def _count(value: Any, where: str) -> int:
    if not str(value).isdecimal() or int(value) < 1:
        raise ConfigurationError(f"{where}: expected a number of at least 1, got {value!r}")
    return int(value)


def _memory(value: Any, where: str) -> str:
    if not _MEMORY.fullmatch(str(value)):
        raise ConfigurationError(f"{where}: expected memory with its unit, such as 64G, got {value!r}")
    return str(value)


def _lines(value: Any, where: str) -> tuple[str, ...]:
    lines = [value] if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ConfigurationError(f"{where}: expected a list of lines, got {value!r}")
    return tuple(lines)


def _others(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected options of sbatch such as {{mail-type: END}}, got {value!r}")
    return {str(name): content for name, content in value.items()}


_READERS: dict[str, Any] = {
    "time": _time,
    "partition": _text,
    "account": _text,
    "qos": _text,
    "constraint": _text,
    "cpus": _count,
    "gpus": _count,
    "memory": _memory,
    "warning": _count,
    "setup": _lines,
    "sbatch": _others,
}
