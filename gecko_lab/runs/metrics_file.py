"""`metrics.csv` of a run, for whoever reads it: a row for each time that metrics were logged."""

from __future__ import annotations

import csv
import re
from pathlib import Path

METRICS_FILE = "metrics.csv"
_STEP = re.compile(r"[0-9]{1,18}")


def read_metrics(folder: Path) -> list[dict[str, str]]:
    """The whole rows of a run's `metrics.csv`; an empty list where there is none.

    A process may have been killed in the middle of a row.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        return []
    text = path.read_bytes().decode("utf-8", errors="replace")
    header, *rows = map(_values, text.split("\n")[:-1] or [""])
    whole = (dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header))
    return [row for row in whole if _STEP.fullmatch(row.get("step", ""))]


def _values(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # no row of ours
        return []
