"""The cells of a grid: which combinations of levels there are, what they are called, what they override."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.definition import Definition, Levels, Overrides

_LONGEST_NAME = 100
_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclass(frozen=True)
class Cell:
    """One combination of levels.

    Attributes:
        name: of its folder; letters, digits and `._+-` alone.
        levels: one of each axis.
        overrides: those of its levels, by dotted key, in the order of the axes.
    """

    name: str
    levels: Levels
    overrides: Overrides


def cells(definition: Definition) -> list[Cell]:
    """The cells of a grid, in the order of its axes and levels.

    Raises:
        ConfigurationError: the base or everything is excluded; two axes of a cell set the same key.
    """
    combinations = [levels for levels in _combinations(definition) if not _is_excluded(levels, definition)]
    if definition.base not in combinations:
        raise ConfigurationError("grid.exclude: the base is excluded, with which all others are compared")
    if len(combinations) < 2:
        raise ConfigurationError("grid: nothing is left to compare the base with")
    names = _names(combinations)
    return [
        Cell(name, levels, _overrides(levels, definition)) for name, levels in zip(names, combinations, strict=True)
    ]


def _combinations(definition: Definition) -> Iterator[Levels]:
    axes = definition.axes
    if definition.design == "product":
        yield from (dict(zip(axes, levels, strict=True)) for levels in itertools.product(*axes.values()))
    elif definition.design == "one_at_a_time":
        yield definition.base
        for axis, levels in axes.items():
            yield from (definition.base | {axis: level} for level in levels if level != definition.base[axis])
    else:
        yield from (dict(items) for items in dict.fromkeys(tuple(cell.items()) for cell in definition.cells))


def _is_excluded(levels: Levels, definition: Definition) -> bool:
    return any(excluded.items() <= levels.items() for excluded in definition.exclude)


def _names(combinations: list[Levels]) -> list[str]:
    """`AXIS-LEVEL_AXIS-LEVEL`, safe as the name of a folder and different for each, also where case does not count."""
    plain = ["_".join(f"{_safe(axis)}-{_safe(level)}" for axis, level in levels.items()) for levels in combinations]
    counts = [sum(name.casefold() == other.casefold() for other in plain) for name in plain]
    names = []
    for name, count, levels in zip(plain, counts, combinations, strict=True):
        if count > 1 or len(name) > _LONGEST_NAME:
            digest = hashlib.sha256(json.dumps(levels).encode()).hexdigest()[:8]
            name = f"{name[:_LONGEST_NAME]}_{digest}"
        names.append(name)
    return names


def _safe(text: str) -> str:
    return _UNSAFE.sub("-", text).strip("+-.") or "x"


def _overrides(levels: Levels, definition: Definition) -> Overrides:
    overrides: Overrides = {}
    owners: list[tuple[str, tuple[str, ...], Any]] = []
    for axis, level in levels.items():
        for key, value in definition.axes[axis][level].items():
            path = tuple(word for word in key.split(".") if word not in ("class_path", "init_args"))
            for owner, earlier, its_value in owners:
                if owner != axis and _undoes(path, value, earlier, its_value):
                    raise ConfigurationError(
                        f"grid.axes: {owner} ({levels[owner]}) and {axis} ({level}) both set "
                        f"{'.'.join(earlier[: len(path)])}; exclude the combination: "
                        f"exclude: [{{{owner}: {levels[owner]!r}, {axis}: {level!r}}}]"
                    )
            owners.append((axis, path, value))
            overrides[key] = value
    return overrides


def _undoes(path: tuple[str, ...], value: Any, earlier: tuple[str, ...], its_value: Any) -> bool:
    """Whether a later override takes back what an earlier one of another axis has set."""
    if path == earlier:
        return True
    if path[: len(earlier)] == earlier:  # an option of a part that was left out would bring it back
        return its_value is None
    if earlier[: len(path)] == path:  # another class, or none, leaves nothing of an option
        return not isinstance(value, Mapping) or "class_path" in value
    return False
