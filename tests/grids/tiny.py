"""Grids of tiny trainings: little text, little network, everything in one folder."""

from pathlib import Path
from typing import Any

import yaml

from gecko_lab.grids.plan import Plan, make_plan
from tests.training import BATCH_SIZE, LAYER, NETWORK, SEQUENCE_LENGTH, write_text

VALUE_DIM = "model.network.layer.value_dim"
MEMORY = "model.network.layer.memory"
STEPS = 6


def settings(folder: Path, grid: dict[str, Any], **groups: dict[str, Any]) -> dict[str, Any]:
    """A configuration of a tiny grid; `groups` add to `model`, `data`, `trainer` and so on."""
    plain: dict[str, Any] = {
        "model": {"network": {**NETWORK, "layer": LAYER}, "optimizer": {"lr": 0.01}},
        "data": {
            "sources": str(folder / "text.jsonl"),
            "cache_folder": str(folder / "cache"),
            "sequence_length": SEQUENCE_LENGTH,
            "batch_size": BATCH_SIZE,
            "validation_fraction": 0.2,
            "progress": False,
        },
        "trainer": {"accelerator": "cpu", "max_steps": STEPS, "log_every_n_steps": 1},
        "text_sample": {"num_tokens": 1},
    }
    for name, values in groups.items():
        plain[name] = {**plain.get(name, {}), **values}
    return {**plain, "grid": grid}


def write_grid(folder: Path, grid: dict[str, Any], name: str = "tiny", **groups: dict[str, Any]) -> Path:
    """The file of a tiny grid, and its text."""
    if not (folder / "text.jsonl").exists():
        write_text(folder)
    path = folder / f"{name}.yaml"
    body = yaml.safe_dump(settings(folder, grid, **groups), sort_keys=False)
    path.write_text(f"# Does it train?\n{body}", encoding="utf-8")
    return path


def plan_of(folder: Path, grid: dict[str, Any], *overrides: str, **groups: dict[str, Any]) -> Plan:
    """The plan of a tiny grid, budget included."""
    plan = make_plan(str(write_grid(folder, grid, **groups)), list(overrides), folder / "grid")
    plan.take_budget()
    return plan
