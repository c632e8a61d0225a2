"""What one run folder says, read for a report."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gecko_lab.errors import ConfigurationError
from gecko_lab.reports.position_losses import read_position_losses
from gecko_lab.runs.identity import identity_settings
from gecko_lab.runs.metrics_file import METRICS_FILE
from gecko_lab.runs.record_file import CONFIG_FILE, read_record, state_of
from gecko_lab.yaml_files import read_yaml

_OF_RUN = ("step", "tokens", "tokens_per_second", "model_flops_per_second", "peak_memory_bytes", "loader_wait")
_SEEDS = ("seed_everything", "data.seed")

Numbers = NDArray[np.float64]


@dataclass
class RunData:
    """A run of a variant.

    Attributes:
        folder: of the run.
        seed: of the run.
        state: `finished`, `running`, `interrupted`, `failed`, `missing` (not started, or its folder is gone) or
            `unreadable`.
        record: what `run.json` says.
        metrics: of `metrics.csv` the columns that reports need, rows in its order; empty where there is none.
        problem: why the run does not count; empty where it does.
    """

    folder: Path
    seed: int
    state: str
    record: Mapping[str, Any] = field(default_factory=dict)
    metrics: pd.DataFrame = field(default_factory=pd.DataFrame)
    problem: str = ""
    _series: dict[str, tuple[Numbers, Numbers]] = field(default_factory=dict, repr=False)

    @property
    def counts(self) -> bool:
        """Whether its results are part of the statistics."""
        return self.state == "finished" and not self.problem

    @property
    def progress(self) -> Mapping[str, float]:
        """`step`, `steps`, `tokens` and `seconds`, as far as they are known."""
        return self.record.get("progress") or {}

    @property
    def environment(self) -> Mapping[str, Any]:
        """Of the last start that wrote it down."""
        found: list[Any] = [start.get("environment") for start in self.record.get("starts", [])]
        return next((one for one in reversed(found) if isinstance(one, Mapping)), {})

    @property
    def cost(self) -> dict[str, float]:
        """Parameters, FLOPs per token, bytes of state, tokens per step, as `run.json` has them."""
        return numbers_of(self.record.get("cost"))

    @cached_property
    def settings(self) -> dict[str, Any] | None:
        """All settings that change the result, by dotted key, without the seeds; none where they cannot be read."""
        tree = self.tree
        if not tree:
            return None
        return {key: value for key, value in identity_settings(tree).items() if key not in _SEEDS}

    @cached_property
    def tree(self) -> dict[str, Any]:
        """What `config.yaml` says; empty where it cannot be read."""
        try:
            return read_yaml(self.folder / CONFIG_FILE)
        except ConfigurationError:
            return {}

    @cached_property
    def position_losses(self) -> dict[str, Any] | None:
        """See `read_position_losses`."""
        return read_position_losses(self.folder)

    @cached_property
    def training_clock(self) -> tuple[Numbers, Numbers] | None:
        """Steps, and the hours of training until each, float64 `[N]` each; none where the speed was not logged."""
        if not {"tokens", "tokens_per_second"} <= set(self.metrics):
            return None
        tokens = pd.to_numeric(self.metrics["tokens"], errors="coerce")
        logged = tokens.notna()
        speeds = pd.to_numeric(self.metrics["tokens_per_second"][logged], errors="coerce")
        speed = speeds.bfill().ffill().to_numpy()  # the first rows have none yet
        if not logged.any() or not (np.isfinite(speed) & (speed > 0)).all():
            return None
        read = np.diff(tokens[logged].to_numpy(), prepend=0.0).clip(min=0)
        steps = self.metrics["step"][logged].to_numpy()
        return np.concatenate([[0.0], steps]), np.concatenate([[0.0], np.cumsum(read / speed) / 3600])

    def series(self, metric: str) -> tuple[Numbers, Numbers]:
        """Steps and values of a metric where it was logged, float64 `[N]` each."""
        if metric not in self.metrics:
            return np.empty(0), np.empty(0)
        if metric not in self._series:
            column, steps = self.metrics[metric], self.metrics["step"].to_numpy()
            if column.dtype.kind in "iuf":
                values = column.to_numpy(dtype=float)
                logged = ~np.isnan(values)
                self._series[metric] = steps[logged], values[logged]
            else:  # a `nan` that was logged is a text here
                logged = column.notna().to_numpy()
                values = pd.to_numeric(column[logged], errors="coerce").to_numpy(dtype=float)
                self._series[metric] = steps[logged], values
        return self._series[metric]

    def last(self, metric: str) -> float | None:
        """The value that was logged last; none where there is none."""
        _, values = self.series(metric)
        return float(values[-1]) if len(values) else None

    def best(self, metric: str, mode: str) -> float | None:
        """The best finite value that was logged; none where there is none."""
        _, values = self.series(metric)
        values = values[np.isfinite(values)]
        if not len(values):
            return None
        return float(values.min() if mode == "min" else values.max())


def read_run(folder: Path, seed: int | None = None) -> RunData:
    """Read a run folder, whatever state it is in.

    Args:
        folder: of the run.
        seed: as the grid says; by default as `run.json` says.
    """
    given = 0 if seed is None else seed
    try:
        record = read_record(folder)
    except ConfigurationError as error:
        return RunData(folder, given, "unreadable", problem=str(error))
    if record is None:
        what = "its folder holds no run.json" if folder.is_dir() else "its folder is not there"
        return RunData(folder, given, "missing", problem=f"not started yet: {what}")
    if seed is None:
        said = record.get("seed")
        given = said if isinstance(said, int) and not isinstance(said, bool) else 0
    run = RunData(folder, given, state_of(record, folder), record)
    try:
        run.metrics = read_metrics_table(folder / METRICS_FILE)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        run.problem = f"{METRICS_FILE} cannot be read ({' '.join(str(error).split())[:160]})"
        return run
    run.problem = _problem(run)
    return run


def read_metrics_table(path: Path) -> pd.DataFrame:
    """The columns of a `metrics.csv` that reports need, whole rows only: a process may be writing one.

    Values are numbers, empty where nothing was logged; a column with `nan` or other words stays text.

    Raises:
        OSError, ValueError, ParserError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return pd.DataFrame({"step": []})
    content = content[: content.rfind(b"\n") + 1]
    if not content:
        return pd.DataFrame({"step": []})
    if not content.startswith(b"step"):
        raise ValueError("it does not begin with the column step")
    table = pd.read_csv(
        io.BytesIO(content),
        usecols=_is_needed,
        keep_default_na=False,
        na_values=[""],
        on_bad_lines="skip",
        encoding_errors="replace",
        low_memory=False,
    )
    steps = pd.to_numeric(table["step"], errors="coerce")
    whole = steps.notna()
    return table[whole].assign(step=steps[whole].astype(float)).reset_index(drop=True)


def numbers_of(values: Any) -> dict[str, float]:
    """The finite numbers of a mapping."""
    if not isinstance(values, Mapping):
        return {}
    return {
        str(name): value
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def _is_needed(column: str) -> bool:
    return column in _OF_RUN or "/validation" in column or "/train" in column or column.startswith("energy")


def _problem(run: RunData) -> str:
    """Why a run does not count."""
    progress = run.progress
    at = f"at step {progress['step']:,.0f} of {progress['steps']:,.0f}" if {"step", "steps"} <= progress.keys() else ""
    if run.state == "running":
        return f"still running {at}".strip()
    if run.state == "interrupted":
        return f"interrupted {at}".strip()
    if run.state == "failed":
        error = " ".join(str(run.record.get("error", "the run wrote down no reason")).split())
        return f"failed {at}: {error}".replace(" :", ":")
    return ""
