"""The curves of one run, read from `metrics.csv` as far as it has grown."""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import csv

from gecko_lab.runs.metrics_file import METRICS_FILE

POINTS = 1000
"""Points of a curve that are kept in memory; of more than that, the last in each of so many equal parts."""
_NO_CURVES = ("step", "epoch")


@dataclass(frozen=True)
class Curve:
    """Values over steps.

    Attributes:
        steps: int64 `[P]`, rising.
        values: float64 `[P]`, NaN and infinity where that was logged.
    """

    steps: np.ndarray
    values: np.ndarray

    def thinned(self, length: int) -> Curve:
        """The last point in each of so many steps."""
        part = (self.steps - 1) // length
        last = np.append(part[1:] != part[:-1], True)
        return Curve(self.steps[last], self.values[last])

    def followed_by(self, other: Curve) -> Curve:
        """This curve up to where the other begins, and the other."""
        kept = self.steps < other.steps[0]
        return Curve(np.concatenate([self.steps[kept], other.steps]), np.concatenate([self.values[kept], other.values]))


@dataclass
class RunCurves:
    """What a run has logged, and where reading goes on.

    Args:
        folder: of the run.
        steps: that the whole run takes.

    Attributes:
        curves: by the name of the column.
        last_step: of the last row; 0 where there is none.
    """

    folder: Path
    steps: int
    curves: dict[str, Curve] = field(default_factory=dict)
    last_step: int = 0
    _seen: tuple[int, int, int] | None = None  # inode, size, modification time in ns
    _offset: int = 0  # bytes that were read
    _header: bytes = b""

    def update(self) -> bool:
        """Read the rows that were added, or all where the file is another; whether there was anything new."""
        try:
            with (self.folder / METRICS_FILE).open("rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_ino, status.st_size, status.st_mtime_ns)
                if seen == self._seen:
                    return False
                header = file.readline()
                # a new column or a restart replaces the file
                grown = self._seen is not None and seen[0] == self._seen[0] and seen[1] >= self._offset
                if not grown or header != self._header:
                    self.curves, self.last_step, self._offset, self._header = {}, 0, len(header), header
                self._seen = seen
                file.seek(self._offset)
                text = file.read()
        except (FileNotFoundError, NotADirectoryError):
            changed = bool(self.curves)
            self.curves, self.last_step, self._seen = {}, 0, None
            return changed
        whole = text[: text.rfind(b"\n") + 1]  # a process may be in the middle of a row
        self._offset += len(whole)
        self._add(whole)
        return True

    def _add(self, rows: bytes) -> None:
        if not rows:
            return
        try:
            table = csv.read_csv(
                io.BytesIO(self._header + rows),
                parse_options=csv.ParseOptions(invalid_row_handler=lambda row: "skip"),
                convert_options=csv.ConvertOptions(null_values=[""]),  # `nan` is a value
            )
            names = table.column_names
        except (pyarrow.ArrowInvalid, UnicodeDecodeError):  # no table
            return
        if "step" not in names or not len(table):
            return
        steps = _numbers(table["step"])
        if not np.isfinite(steps).any():
            return
        self.last_step = max(self.last_step, int(np.nanmax(steps)))
        length = max(1, math.ceil(max(self.steps, self.last_step) / POINTS))
        for name in names:
            if name in _NO_CURVES or pyarrow.types.is_null(table[name].type):
                continue
            written = np.isfinite(steps) & ~table[name].is_null().to_numpy()
            if not written.any():
                continue
            # of two rows of one step the later
            at, last = np.unique(steps[written][::-1].astype(np.int64), return_index=True)
            new = Curve(at, _numbers(table[name])[written][::-1][last])
            known = self.curves.get(name)
            self.curves[name] = (known.followed_by(new) if known else new).thinned(length)


def _numbers(column: pyarrow.ChunkedArray) -> np.ndarray:
    """A column as float64 `[rows]`; NaN where there is no number."""
    if pyarrow.types.is_integer(column.type) or pyarrow.types.is_floating(column.type):
        return np.asarray(column.cast(pyarrow.float64()).to_numpy(), dtype=np.float64)
    return np.array([_number(value) for value in column.to_pylist()], dtype=np.float64)


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan
