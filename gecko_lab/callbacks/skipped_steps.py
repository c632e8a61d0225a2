"""`skipped.jsonl`: a line for each optimiser step that was left out, kept across restarts."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from gecko_lab.runs.files import written_whole

FILE_NAME = "skipped.jsonl"


class SkippedSteps:
    """The record of steps that were left out.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME

    def add(self, record: dict[str, Any]) -> None:
        """Append a line; it is on the disk when this returns.

        Args:
            record: plain values, with the step under `step`.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(as_json(record), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def keep_until(self, last_step: int) -> None:
        """Remove the lines of steps after `last_step`, which will be taken again, and a line that a kill cut off."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        with written_whole(self.path) as file:
            file.writelines(f"{line}\n" for line in lines if _step(line) <= last_step)


def as_json(value: Any) -> Any:
    """The value with words (`nan`, `inf`, `-inf`) for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [as_json(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _step(line: str) -> float:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
