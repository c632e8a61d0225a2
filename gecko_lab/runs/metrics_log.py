"""`metrics.csv`: a row for each time that metrics are logged, kept across restarts."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import Logger
from torch import Tensor

from gecko_lab.runs.files import written_whole
from gecko_lab.runs.metrics_file import METRICS_FILE, read_metrics


class MetricsLog(Logger):
    """Appends to `metrics.csv` in the run's folder; Lightning's CSVLogger would delete what is there.

    The column `step` says how many optimiser steps had been taken.

    Args:
        folder: of the run.
        last_step: rows of later steps are removed first: they will be logged again. None starts a new file.
        first_step: what Lightning's step 0 is called: it counts the steps before the one that it logs.
    """

    def __init__(self, folder: Path, last_step: int | None = None, *, first_step: int = 1) -> None:
        super().__init__()
        self.path = folder / METRICS_FILE
        self._columns: list[str] = []
        self._pending: list[dict[str, Any]] = []
        self._last_step, self._first_step = last_step, first_step
        self._opened = False

    @property
    def name(self) -> str:
        """None: the folder is the run's own."""
        return ""

    @property
    def version(self) -> str:
        """None: the folder is the run's own."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run's folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add a row."""
        values = {name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()}
        self._pending.append({"step": (step or 0) + self._first_step, **values})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def save(self) -> None:
        """Write what is pending."""
        if not self._opened:
            self._open()
        if not self._pending:
            return
        new = sorted({name for row in self._pending for name in row} - set(self._columns))
        if new:
            self._rewrite([*self._columns, *new], read_metrics(self.path.parent))
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self._columns).writerows(self._pending)
        self._pending = []

    def finalize(self, status: str) -> None:
        """Write what is pending."""
        self.save()

    def _open(self) -> None:
        self._opened = True
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self._last_step is None:
            self.path.unlink(missing_ok=True)
            return
        kept = [row for row in read_metrics(self.path.parent) if int(row["step"]) <= self._last_step]
        if not kept and _is_damaged(self.path):
            os.replace(self.path, damaged := self.path.with_name(f"{METRICS_FILE}.damaged"))
            print(f"gecko-lab: {self.path} cannot be read, it is now {damaged.name}", file=sys.stderr, flush=True)
        self._rewrite(list(kept[0]) if kept else [], kept)

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        columns = ["step", *(name for name in columns if name != "step")]
        with written_whole(self.path) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns


def _is_damaged(path: Path) -> bool:
    """Whether the file is there and not even its header is."""
    return path.is_file() and not path.read_bytes().startswith(b"step")
