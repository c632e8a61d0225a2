"""What the key `grid` of a configuration says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.grids.budget import Budget, read_budget
from gecko_lab.grids.slurm_options import read_slurm

Design = Literal["product", "one_at_a_time", "list"]
Match = Literal["parameters", "flops", "state", "none"]
Mode = Literal["min", "max"]
Overrides = dict[str, Any]
Levels = dict[str, str]

# The dimensions of a layer that matching may solve. Not chunk_size: what a chunked attention keeps depends on where in
# a chunk the stream stops, so that the state goes up and down with it.
DIMENSIONS = ("hidden_dim", "value_dim", "z_dim")
_SOLVED = {"parameters": "hidden_dim", "flops": "hidden_dim", "state": "value_dim", "none": "hidden_dim"}
_RESERVED = {
    "seed_everything": "grid.seeds sets it",
    "data.seed": "grid.seeds sets it",
    "config": "write its keys out",
    "grid": "a grid has no grid inside",
    "run": "the grid names the folders",
    "fresh": "the grid names the folders",
}


_COLUMNS = ("variant", "seed", "value", "folder")


@dataclass(frozen=True)
class Definition:
    """A grid as the user wrote it, checked, every default filled in.

    Attributes:
        axes: for each axis the overrides of each of its levels, by dotted key.
        design: which combinations of levels are cells: all of them, those that differ from the base in one axis, or
            those of `cells`.
        base: the level of each axis that the others are compared with.
        exclude: combinations that are left out, each of any number of axes.
        cells: the combinations of the design `list`.
        seeds: each cell is trained once with each.
        budget: what every run may spend; none: what the rest of the configuration says.
        match: the cost in which all variants must agree with the base.
        match_by: the dimension of the layer that is solved for it.
        metric: what the variants are compared by.
        mode: whether less or more of it is better.
        retries: how often a run that failed is started again.
        slurm: arguments of `SlurmOptions`: what each run asks of a cluster, with `--launcher slurm`.
    """

    axes: dict[str, dict[str, Overrides]]
    design: Design
    base: Levels
    exclude: tuple[Levels, ...]
    cells: tuple[Levels, ...]
    seeds: tuple[int, ...]
    budget: Budget | None
    match: Match
    match_by: str
    metric: str
    mode: Mode
    retries: int
    slurm: dict[str, Any]


_KEYS = tuple(Definition.__dataclass_fields__)


def read_definition(grid: Any, where: str) -> Definition:
    """Read the key `grid`.

    Args:
        grid: its value.
        where: the file, for messages.

    Raises:
        ConfigurationError: for a key, an axis or a level that is not there, or a value that cannot be.
    """
    where = f"{where}: grid"
    if not isinstance(grid, Mapping):
        raise ConfigurationError(f"{where}: expected keys and values with `axes`, got {grid!r}")
    for key in grid:
        if key not in _KEYS:
            raise ConfigurationError(f"{where}.{key}: unknown key{nearest(str(key), _KEYS)}")
    axes = _read_axes(grid.get("axes"), f"{where}.axes")
    design = _choice(grid.get("design", "product"), get_args(Design), f"{where}.design")
    if (design == "list") != ("cells" in grid):
        raise ConfigurationError(f"{where}.cells: goes with design: list, which has them, and with no other")
    base = {axis: _default_base(levels) for axis, levels in axes.items()}
    base |= _read_levels(grid.get("base") or {}, axes, f"{where}.base")
    cells = [base | levels for levels in _read_list(grid.get("cells"), axes, f"{where}.cells")]
    if design == "list" and base not in cells:
        shown = ", ".join(f"{axis}: {level}" for axis, level in base.items())
        raise ConfigurationError(f"{where}.cells: the base ({shown}) is not among them; add it, or name another base")
    match = _choice(grid.get("match", "parameters"), get_args(Match), f"{where}.match")
    match_by = _choice(grid.get("match_by", _SOLVED[match]), DIMENSIONS, f"{where}.match_by")
    retries = grid.get("retries", 1)
    if not _is_count(retries):
        raise ConfigurationError(f"{where}.retries: expected a number of at least 0, got {retries!r}")
    metric = grid.get("metric", "loss/validation")
    if not isinstance(metric, str) or not metric:
        raise ConfigurationError(
            f"{where}.metric: expected the name of a metric such as loss/validation, got {metric!r}"
        )
    return Definition(
        axes=axes,
        design=design,
        base=base,
        exclude=tuple(_read_list(grid.get("exclude"), axes, f"{where}.exclude")),
        cells=tuple(cells),
        seeds=_read_seeds(grid.get("seeds", 1), f"{where}.seeds"),
        budget=None if grid.get("budget") is None else read_budget(grid["budget"], f"{where}.budget"),
        match=match,
        match_by=match_by,
        metric=metric,
        mode=_choice(grid.get("mode", "min"), get_args(Mode), f"{where}.mode"),
        retries=retries,
        slurm=read_slurm(grid.get("slurm"), f"{where}.slurm"),
    )


def level_name(key: Any) -> str:
    """A level's name as text: YAML reads an unquoted `0.5` as a number, and `on` and `off` as truth values."""
    return ("on" if key else "off") if isinstance(key, bool) else str(key)


def _read_axes(axes: Any, where: str) -> dict[str, dict[str, Overrides]]:
    if not isinstance(axes, Mapping) or not axes:
        raise ConfigurationError(f"{where}: expected at least one axis, such as memory: {{on: {{}}, off: {{…}}}}")
    read: dict[str, dict[str, Overrides]] = {}
    for name, levels in axes.items():
        axis, place = str(name), f"{where}.{name}"
        if axis in _COLUMNS:
            raise ConfigurationError(f"{place}: tables of results have a column of that name; call the axis otherwise")
        if not isinstance(levels, Mapping) or len(levels) < 2:
            raise ConfigurationError(
                f"{place}: expected two or more named levels, each a set of overrides ({{}}: none)"
            )
        read[axis] = {}
        for key, overrides in levels.items():
            level = level_name(key)
            if level in read[axis]:
                raise ConfigurationError(f"{place}.{level}: there are two levels of this name")
            read[axis][level] = _read_overrides(overrides, f"{place}.{level}")
    return read


def _read_overrides(overrides: Any, where: str) -> Overrides:
    if overrides is None:
        return {}
    if not isinstance(overrides, Mapping):
        raise ConfigurationError(f"{where}: expected overrides such as {{model.network.size: 15m}}, got {overrides!r}")
    for key in overrides:
        name = str(key)
        if name in _RESERVED:
            raise ConfigurationError(f"{where}: a level cannot set {name}: {_RESERVED[name]}")
        if not isinstance(key, str) or not all(name.split(".")) or set(name) & set("= \t\n"):
            raise ConfigurationError(f"{where}: {key!r} is not a key such as model.network.size")
    return dict(overrides)


def _default_base(levels: Mapping[str, Overrides]) -> str:
    """The level that changes nothing, else the first."""
    return next((name for name, overrides in levels.items() if not overrides), next(iter(levels)))


def _read_list(value: Any, axes: Mapping[str, Mapping[str, Any]], where: str) -> list[Levels]:
    if not isinstance(value, list | None):
        raise ConfigurationError(f"{where}: expected a list of levels by axis, got {value!r}")
    return [_read_levels(item, axes, f"{where}[{i}]") for i, item in enumerate(value or [])]


def _read_levels(value: Any, axes: Mapping[str, Mapping[str, Any]], where: str) -> Levels:
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected a level for each axis, got {value!r}")
    levels = {str(axis): level_name(level) for axis, level in value.items()}
    for axis, level in levels.items():
        if axis not in axes:
            raise ConfigurationError(f"{where}.{axis}: there is no such axis{nearest(axis, axes)}")
        if level not in axes[axis]:
            raise ConfigurationError(f"{where}.{axis}: there is no level {level!r}{nearest(level, axes[axis])}")
    return levels


def _read_seeds(value: Any, where: str) -> tuple[int, ...]:
    seeds = list(range(value)) if _is_count(value) else value
    if not isinstance(seeds, list) or not seeds or not all(_is_count(seed) and seed < 2**32 for seed in seeds):
        raise ConfigurationError(f"{where}: expected how many, or a list such as [0, 1, 2], got {value!r}")
    if len(set(seeds)) < len(seeds):
        raise ConfigurationError(f"{where}: the same seed twice gives the same run twice: {value!r}")
    return tuple(seeds)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _choice(value: Any, valid: tuple[str, ...], where: str) -> Any:
    value = "none" if value is None and "none" in valid else value
    if value not in valid:
        raise ConfigurationError(f"{where}: {value!r} is none of the choices{nearest(str(value), valid)}")
    return value
