"""`grid.json`: what a grid's folder holds, for whoever reads it later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError

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
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} cannot be read ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ConfigurationError(f"{path} is not the record of a grid; name another folder")
    if record.get("format_version") != FORMAT_VERSION:
        raise ConfigurationError(f"{path} is of format {record.get('format_version')}, this version reads 1")
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
