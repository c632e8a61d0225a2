"""Which cells there are: counted, named and combined."""

import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.cells import cells
from gecko_lab.grids.definition import Definition, read_definition

NAMES = st.text(min_size=1, max_size=12).filter(lambda text: text not in ("variant", "seed", "value", "folder"))


@st.composite
def axes(draw: st.DrawFn) -> dict[str, Any]:
    """Axes whose levels each override a key of their own axis."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    levels = st.lists(st.text(max_size=12), min_size=2, max_size=4, unique=True)
    return {name: {level: {f"axis{i}.key": level} for level in draw(levels)} for i, name in enumerate(names)}


def define(**grid: Any) -> Definition:
    return read_definition(grid, "grid.yaml")


def counts(definition: Definition) -> list[int]:
    return [len(levels) for levels in definition.axes.values()]


@given(axes())
def test_cells_of_a_product_are_all_combinations(axes: dict[str, Any]) -> None:
    definition = define(axes=axes)
    found = cells(definition)
    assert len(found) == math.prod(counts(definition)) == len({tuple(cell.levels.items()) for cell in found})


@given(axes())
def test_cells_one_at_a_time_differ_from_the_base_in_one_axis(axes: dict[str, Any]) -> None:
    definition = define(axes=axes, design="one_at_a_time")
    found = cells(definition)
    assert len(found) == 1 + sum(count - 1 for count in counts(definition))
    assert found[0].levels == definition.base
    for cell in found[1:]:
        assert sum(cell.levels[axis] != definition.base[axis] for axis in axes) == 1


@given(axes(), st.data())
def test_cells_of_a_list_are_the_list(axes: dict[str, Any], data: st.DataObject) -> None:
    definition = define(axes=axes)
    every = [cell.levels for cell in cells(definition)]
    others = data.draw(st.lists(st.sampled_from(every[1:]), min_size=1))
    base = {axis: next(iter(levels)) for axis, levels in axes.items()}
    found = cells(define(axes=axes, design="list", cells=[base, *others]))
    expected = list(dict.fromkeys(tuple(levels.items()) for levels in [base, *others]))
    assert [tuple(cell.levels.items()) for cell in found] == expected


@given(axes(), st.data())
def test_cells_without_what_is_excluded(axes: dict[str, Any], data: st.DataObject) -> None:
    definition = define(axes=axes)
    axis = data.draw(st.sampled_from(list(axes)))
    level = data.draw(st.sampled_from([level for level in axes[axis] if level != definition.base[axis]]))
    whole = cells(definition)
    if all(cell.levels[axis] == level for cell in whole if cell.levels != definition.base):
        with pytest.raises(ConfigurationError, match="nothing is left"):
            cells(define(axes=axes, exclude=[{axis: level}]))
        return
    rest = cells(define(axes=axes, exclude=[{axis: level}]))
    assert [cell.levels for cell in rest] == [cell.levels for cell in whole if cell.levels[axis] != level]


@given(axes())
def test_cells_have_names_that_are_unique_file_safe_and_always_the_same(axes: dict[str, Any]) -> None:
    names = [cell.name for cell in cells(define(axes=axes))]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,200}", name) for name in names), names
    assert names == [cell.name for cell in cells(define(axes=axes))]


def test_cells_are_named_after_axes_and_levels() -> None:
    axes = {"memory": {"on": {}, "off": {"a.b": None}}, "capacity": {0.5: {"c": 1}, "1": {}}}
    assert [cell.name for cell in cells(define(axes=axes))] == [
        *("memory-on_capacity-0.5", "memory-on_capacity-1"),
        *("memory-off_capacity-0.5", "memory-off_capacity-1"),
    ]


@given(axes())
def test_cells_override_what_their_levels_say(axes: dict[str, Any]) -> None:
    for cell in cells(define(axes=axes)):
        assert cell.overrides == {f"axis{i}.key": level for i, level in enumerate(cell.levels.values())}


MEMORY = "model.network.layer.memory"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"trainer.max_steps": 1}, {"trainer.max_steps": 2}),
        ({MEMORY: None}, {f"{MEMORY}.capacity": 2}),
        ({MEMORY: None}, {f"{MEMORY}.init_args.capacity": 2}),
        ({f"{MEMORY}.capacity": 2}, {MEMORY: None}),
        ({f"{MEMORY}.capacity": 2}, {MEMORY: "AdditiveMemory"}),
        ({f"{MEMORY}.capacity": 2}, {MEMORY: {"class_path": "AdditiveMemory"}}),
        ({f"{MEMORY}.class_path": "AdditiveMemory"}, {MEMORY: None}),
    ],
)
def test_cells_refuse_axes_that_undo_each_other(first: dict[str, Any], second: dict[str, Any]) -> None:
    axes = {"a": {"plain": {}, "x": first}, "b": {"plain": {}, "y": second}}
    with pytest.raises(ConfigurationError, match=r"a \(x\) and b \(y\) both set .*exclude: \[\{a: 'x', b: 'y'\}\]"):
        cells(define(axes=axes))
    assert len(cells(define(axes=axes, exclude=[{"a": "x", "b": "y"}]))) == 3


def test_cells_let_an_axis_refine_the_class_that_another_chooses() -> None:
    axes = {"a": {"plain": {}, "x": {MEMORY: "AdditiveMemory"}}, "b": {"plain": {}, "y": {f"{MEMORY}.capacity": 2}}}
    assert len(cells(define(axes=axes))) == 4


def test_cells_refuse_to_leave_out_the_base() -> None:
    with pytest.raises(ConfigurationError, match="the base is excluded"):
        cells(define(axes={"a": {"x": {}, "y": {"k": 1}}}, exclude=[{"a": "x"}]))
