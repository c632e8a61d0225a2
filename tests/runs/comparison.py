"""What must be equal, bit for bit, between a run that was stopped and one that was not."""

import csv
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

OF_TIME = {"tokens_per_second", "model_flops_per_second", "peak_memory_bytes", "loader_wait", "energy_joules_per_token"}
"""Columns that say how fast a step was."""


def metrics(run: Path) -> list[dict[str, str]]:
    """The rows of `metrics.csv` without what depends on time, columns in order of name."""
    with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: row[name] for name in sorted(row) if name not in OF_TIME and row[name]} for row in rows]


def events(run: Path) -> list[tuple[str, int, Any]]:
    """Every value in the event files, as (tag, step, content), read raw: TensorBoard's own readers hide duplicates."""
    found = []
    for path in sorted(run.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if event.step and value.tag not in OF_TIME:
                    content = value.tensor.SerializeToString()
                    found.append((value.tag, event.step, content if value.tag != "loss_by_position" else b"picture"))
    return sorted(found)


def checkpoint(run: Path) -> dict[str, Any]:
    """The last checkpoint, as plain values."""
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return content


def assert_equal(ours: Any, theirs: Any, where: str = "") -> None:
    """Compare nested values bit for bit, with the place of the first difference."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype, where
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(a, b, f"{where}[{number}]")
    else:
        assert ours == theirs or (ours != ours and theirs != theirs), f"{where}: {ours} is not {theirs}"


def assert_same_run(ours: Path, theirs: Path) -> None:
    """The same losses, metrics, events, weights, optimiser, random numbers and counters."""
    a, b = metrics(ours), metrics(theirs)
    for row, other in zip(a, b, strict=False):
        assert row == other
    assert len(a) == len(b)
    assert events(ours) == events(theirs)
    assert_equal(checkpoint(ours), checkpoint(theirs))
