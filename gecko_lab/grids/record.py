"""`grid.json`: what a grid's folder holds, for whoever reads it later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError
from gecko_lab.json_record import read_json_record

FILE_NAME = "grid.json"
FORMAT = "gecko-lab-grid"
FORMAT_VERSION = 1
_LISTS = ("seeds", "variants")
_MAPPINGS = ("axes", "base")


def read_grid(folder: Path) -> dict[str, Any] | None:
    """What a folder's `grid.json` says; none where it has none.

    Raises:
        ConfigurationError: it is damaged or of another program.
    """
    path = folder / FILE_NAME
    record = read_json_record(path, of="grid", format=FORMAT, version=FORMAT_VERSION)
    if record is None:
        return None
    whole = (
        all(isinstance(record.get(name), list) for name in _LISTS)
        and all(isinstance(record.get(name), dict) for name in _MAPPINGS)
        and all(_is_variant(variant) for variant in record["variants"])
    )
    if not whole:
        raise ConfigurationError(f"{path} is damaged; remove it: `gecko-lab grid` writes it again and keeps the runs")
    return record


def _is_variant(variant: Any) -> bool:
    return (
        isinstance(variant, dict)
        and isinstance(variant.get("name"), str)
        and all(isinstance(variant.get(name), dict) for name in ("levels", "overrides", "matched", "cost"))
        and isinstance(runs := variant.get("runs"), list)
        and all(isinstance(run, dict) and isinstance(run.get("folder"), str) and "seed" in run for run in runs)
    )
