"""Run folders and grids as studies: variants, each with runs over seeds."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.grids.record import FILE_NAME as GRID_FILE
from gecko_lab.grids.record import read_grid
from gecko_lab.reports.run_data import RunData, numbers_of, read_run
from gecko_lab.runs.record_file import RECORD_FILE

Tell = Callable[[str], None]
_LONGEST_NAME = 60
_NO_RUNS = {"checkpoints", "node_modules", "__pycache__"}
# What runs that no grid names are compared by: the first that they have.
_METRICS = {"accuracy/validation": "max", "loss/validation": "min"}


@dataclass
class Variant:
    """Runs that differ in nothing but their seeds.

    Attributes:
        name: of the variant.
        levels: one of each axis of the grid; empty without a grid.
        overrides: by dotted key, what the grid sets for it.
        cost: parameters, FLOPs per token, bytes of state, tokens per step, as far as they are known.
        steps: optimiser steps of each run; none where nobody knows.
        runs: one for each seed.
    """

    name: str
    levels: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)
    steps: int | None = None
    runs: list[RunData] = field(default_factory=list)

    @property
    def counting(self) -> list[RunData]:
        """The runs that are part of the statistics."""
        return [run for run in self.runs if run.counts]

    @property
    def settings(self) -> dict[str, Any] | None:
        """Of the first run that has any."""
        return next((run.settings for run in self.runs if run.settings is not None), None)


@dataclass
class Study:
    """What is compared: a grid, or runs without one.

    Attributes:
        name: of the grid or the folder.
        folder: of the grid; for runs without one the folder that holds all of them.
        variants: in the order of the grid.
        base: name of the variant that the others are compared with.
        metric: what they are compared by.
        mode: `min` or `max`, which of it is better.
        grid: what `grid.json` says; empty without one.
        duplicates: runs with the settings and seed of another, which are left out.
        key: short, and different for each study of a report.
        report_folder: where the report stands, for links; by default `folder`.
    """

    name: str
    folder: Path
    variants: list[Variant]
    base: str
    metric: str
    mode: str
    grid: dict[str, Any] = field(default_factory=dict)
    duplicates: list[RunData] = field(default_factory=list)
    key: str = "study"
    report_folder: Path | None = None

    @property
    def runs(self) -> Iterator[tuple[Variant, RunData]]:
        """Every run with its variant."""
        return ((variant, run) for variant in self.variants for run in variant.runs)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the grid's axes."""
        return tuple(self.grid.get("axes", {}))

    def variant(self, name: str) -> Variant:
        """The variant of that name."""
        return next(variant for variant in self.variants if variant.name == name)

    def relative(self, run: RunData) -> str:
        """The run's folder as seen from the study's, with `/`."""
        return Path(os.path.relpath(run.folder, self.folder)).as_posix()

    def link(self, run: RunData) -> str:
        """The run's folder as seen from the report, with `/`."""
        return Path(os.path.relpath(run.folder, self.report_folder or self.folder)).as_posix()


def read_studies(paths: Sequence[Path], *, base: str | None, metric: str | None, tell: Tell) -> list[Study]:
    """Read every grid and every run below the paths; runs that no grid names make one study together.

    Args:
        paths: of run folders, grids' folders, or folders that hold them.
        base: name of the variant to compare with, instead of the grid's; the first of runs without a grid.
        metric: to compare by, instead of the grid's.
        tell: is told what is being read.

    Raises:
        ConfigurationError: a path is not there, holds neither runs nor grids, or a grid is damaged; no study has such a
            base or metric.
    """
    grids: dict[Path, Path] = {}
    folders: dict[Path, Path] = {}  # by what they resolve to, so that none is read twice
    for path in paths:
        found = list(_find(path.parent if path.name in (GRID_FILE, RECORD_FILE) else path))
        if not found:
            what = "holds neither a run (run.json) nor a grid (grid.json)" if path.exists() else "is not there"
            raise ConfigurationError(f"report: {path} {what}; name run folders, grids, or a folder that holds some")
        for folder, is_grid in found:
            (grids if is_grid else folders).setdefault(folder.resolve(), folder)
    studies = [_read_grid_study(folder, tell) for folder in grids.values()]
    of_grids = {run.folder.resolve() for study in studies for _, run in study.runs}
    loose = [folder for place, folder in folders.items() if place not in of_grids]
    if loose:
        studies.append(_loose_study(loose, tell))
    for number, study in enumerate(studies, 1):
        study.key = f"study{number}"
    _choose_metric(studies, metric)
    _choose_base(studies, base)
    for study in studies:
        for _, run in study.runs:
            if run.counts:
                run.problem = _without_result(run, study.metric)
    return studies


def _find(path: Path) -> Iterator[tuple[Path, bool]]:
    """Folders of runs and of grids (True) at and below a path; nothing is looked for inside either."""
    for parent, folders, files in os.walk(path):
        if GRID_FILE in files or RECORD_FILE in files:
            folders.clear()
            yield Path(parent), GRID_FILE in files
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NO_RUNS)


def _read_grid_study(folder: Path, tell: Tell) -> Study:
    grid = read_grid(folder)
    if grid is None or not grid["variants"]:
        raise ConfigurationError(f"{folder / GRID_FILE} names no variants; `gecko-lab grid` writes it again")
    variants = []
    for described in grid["variants"]:
        variant = Variant(
            name=described["name"],
            levels={str(axis): str(level) for axis, level in described["levels"].items()},
            overrides={**described["overrides"], **described["matched"]},
            cost=numbers_of(described["cost"]),
            steps=described.get("steps") if isinstance(described.get("steps"), int) else None,
        )
        for run in described["runs"]:
            tell(f"reading {folder / run['folder']}")
            if not isinstance(run["seed"], int):
                raise ConfigurationError(f"{folder / GRID_FILE}: the seed {run['seed']!r} is not a whole number")
            variant.runs.append(read_run(folder / run["folder"], run["seed"]))
        variants.append(variant)
    levels = {str(axis): str(level) for axis, level in grid["base"].items()}
    base = next((variant.name for variant in variants if variant.levels == levels), variants[0].name)
    metric, mode = str(grid.get("metric", "loss/validation")), str(grid.get("mode", "min"))
    return Study(str(grid.get("name", folder.name)), folder, variants, base, metric, mode, grid)


def _loose_study(folders: list[Path], tell: Tell) -> Study:
    """Runs without a grid: those of equal settings but for the seeds are one variant, the first is the base."""
    runs = []
    for folder in folders:
        tell(f"reading {folder}")
        runs.append(read_run(folder))
    groups: dict[Any, list[RunData]] = {}
    for run in runs:
        key = str(run.folder) if run.settings is None else repr(sorted(run.settings.items(), key=lambda item: item[0]))
        groups.setdefault(key, []).append(run)
    differing = differing_keys([group[0].settings or {} for group in groups.values()])
    common = Path(os.path.commonpath([run.folder.absolute() for run in runs]))
    variants: list[Variant] = []
    duplicates: list[RunData] = []
    for group in groups.values():
        name = _name(group, differing, {variant.name for variant in variants})
        by_seed: dict[int, list[RunData]] = {}
        for run in group:
            by_seed.setdefault(run.seed, []).append(run)
        kept = []
        for same in by_seed.values():
            newest_last = sorted(same, key=lambda run: (run.counts, str(run.record.get("created", ""))))
            kept.append(newest_last[-1])
            duplicates += newest_last[:-1]
        first = next((run for run in kept if run.cost), kept[0])
        steps = first.progress.get("steps")
        cost = first.cost
        variants.append(Variant(name, cost=cost, steps=None if steps is None else int(steps), runs=kept))
    folder = common if len(runs) > 1 else runs[0].folder
    return Study(folder.resolve().name, folder, variants, variants[0].name, "", "", duplicates=duplicates)


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The dotted keys that not all of the settings have the same value for."""
    keys = dict.fromkeys(key for one in settings for key in one)
    absent = object()
    return [key for key in keys if any(one.get(key, absent) != settings[0].get(key, absent) for one in settings[1:])]


def _name(group: list[RunData], differing: list[str], taken: set[str]) -> str:
    """`capacity=2, lr=0.001` where that is short and says which it is; else the name of the first folder."""
    settings = group[0].settings or {}
    known = {key.rsplit(".", 1)[-1]: settings[key] for key in differing if key in settings}
    short = ", ".join(f"{key}={'null' if value is None else value}" for key, value in known.items())
    name = short if len(group) > 1 and 0 < len(short) <= _LONGEST_NAME else group[0].folder.resolve().name
    return name if name not in taken else str(group[0].folder)


def _choose_metric(studies: list[Study], metric: str | None) -> None:
    for study in studies:
        logged = {name for _, run in study.runs for name in run.metrics if "/" in name}
        if metric is not None:
            if logged and metric not in logged and len(studies) == 1:
                raise ConfigurationError(f"--metric: no run has logged {metric!r}{nearest(metric, logged)}")
            study.mode = study.mode if metric == study.metric else better_of(metric)
            study.metric = metric
        elif not study.metric:
            study.metric = next((name for name in _METRICS if name in logged), "loss/validation")
            study.mode = _METRICS[study.metric]


def _without_result(run: RunData, metric: str) -> str:
    """Why a finished run has no value to compare; empty where it has one."""
    value = run.last(metric)
    if value is None:
        return f"finished, but never logged {metric}"
    if not math.isfinite(value):
        return f"finished, but its last {metric} is {'not a number' if math.isnan(value) else 'infinite'}"
    return ""


def better_of(metric: str) -> str:
    """Whether less (`min`) or more (`max`) of a metric is better, as far as its name tells."""
    return "max" if metric.startswith(("accuracy", "exact_match", "tokens_per_second")) else "min"


def _choose_base(studies: list[Study], base: str | None) -> None:
    if base is None:
        return
    names = [variant.name for study in studies for variant in study.variants]
    if base not in names:
        raise ConfigurationError(f"--base: there is no variant {base!r}{nearest(base, names)}")
    for study in studies:
        if any(variant.name == base for variant in study.variants):
            study.base = base
