"""Which runs a dashboard shows, without a look at what they have logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.record import FILE_NAME as GRID_FILE
from gecko_lab.grids.record import read_grid

if TYPE_CHECKING:
    from gecko_lab.reports.study import Study


@dataclass(frozen=True)
class Member:
    """A variant and its runs.

    Attributes:
        name: of the variant.
        levels: one of each axis; empty without a grid.
        cost: parameters, FLOPs per token, bytes of state, tokens per step, as far as they are known.
        steps: optimiser steps of each run; 0 where nobody knows.
        runs: by seed their folders.
    """

    name: str
    levels: Mapping[str, str]
    cost: Mapping[str, float]
    steps: int
    runs: Mapping[int, Path]


@dataclass(frozen=True)
class Members:
    """What is compared.

    Attributes:
        folder: of the grid, or that of all runs.
        metric: that variants are compared by.
        variants: in the order of the grid.
        axes: levels by axis.
    """

    folder: Path
    metric: str
    variants: Sequence[Member]
    axes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """All of them, rising."""
        return sorted({seed for variant in self.variants for seed in variant.runs})


def read_members(path: Path) -> Members:
    """The grid of a path, or the runs below it.

    Args:
        path: of a grid's folder or `grid.json`, of a folder that holds one or runs, or of a run.

    Raises:
        ConfigurationError: there is nothing, or there are several.
    """
    folder = path.parent if path.name == GRID_FILE else path
    grid = read_grid(folder)
    if grid is not None and grid["variants"]:
        return _of_grid(folder, grid)
    return members_of(one_study(path))


def members_of(study: Study) -> Members:
    """The variants of a study."""
    return _of_grid(study.folder, study.grid) if study.grid else _of_loose_runs(study)


def one_study(path: Path) -> Study:
    """The one study below a path.

    Raises:
        ConfigurationError: there is none, or there are several.
    """
    from gecko_lab.reports.study import (
        read_studies,  # loads what statistics need, seconds that a grid does not wait for
    )

    try:
        studies = read_studies([path], base=None, metric=None, tell=lambda what: None)
    except ConfigurationError as error:
        raise ConfigurationError(str(error).removeprefix("report: ")) from error
    if len(studies) > 1:
        names = ", ".join(str(study.folder) for study in studies[:5])
        raise ConfigurationError(
            f"{path} holds {len(studies)} things to compare ({names}{', …' if len(studies) > 5 else ''}); name one: "
            f"gecko-lab dashboard {studies[0].folder}"
        )
    return studies[0]


def _of_grid(folder: Path, grid: Mapping[str, Any]) -> Members:
    variants = [
        Member(
            name=described["name"],
            levels={str(axis): str(level) for axis, level in described["levels"].items()},
            cost={name: value for name, value in described["cost"].items() if isinstance(value, int | float)},
            steps=steps if isinstance(steps := described.get("steps"), int) else 0,
            runs={int(run["seed"]): folder / run["folder"] for run in described["runs"]},
        )
        for described in grid["variants"]
    ]
    axes = {str(axis): [str(level) for level in levels] for axis, levels in grid["axes"].items()}
    return Members(folder, str(grid.get("metric", "loss/validation")), variants, axes)


def _of_loose_runs(study: Study) -> Members:
    variants = [
        Member(
            name=variant.name,
            levels={},
            cost=variant.cost,
            steps=variant.steps or 0,
            runs={run.seed: run.folder for run in variant.runs},
        )
        for variant in study.variants
    ]
    return Members(study.folder, study.metric, variants)
