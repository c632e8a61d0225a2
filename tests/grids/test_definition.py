"""The key `grid`: defaults, and one clear message for each mistake."""

from typing import Any

import pytest

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.definition import read_definition

AXES = {"memory": {"off": {"m": None}, "on": {}}, "width": {"8": {"w": 8}, "16": {"w": 16}}}


def test_read_definition_fills_in_defaults() -> None:
    definition = read_definition({"axes": AXES}, "grid.yaml")
    assert definition.base == {"memory": "on", "width": "8"}  # the level that changes nothing, else the first
    assert (definition.design, definition.seeds, definition.match) == ("product", (0,), "parameters")
    assert (definition.match_by, definition.metric, definition.mode) == ("hidden_dim", "loss/validation", "min")
    assert (definition.retries, definition.budget) == (1, None)


@pytest.mark.parametrize(
    ("match", "dimension"), [("flops", "hidden_dim"), ("state", "value_dim"), (None, "hidden_dim")]
)
def test_read_definition_knows_by_what_a_cost_is_matched(match: str | None, dimension: str) -> None:
    definition = read_definition({"axes": AXES, "match": match}, "grid.yaml")
    assert (definition.match, definition.match_by) == (match or "none", dimension)


def test_read_definition_reads_names_that_yaml_has_made_into_values() -> None:
    grid = {"axes": {"memory": {True: {}, False: {"m": None}}, "c": {0.5: {"x": 1}, 1: None}}, "base": {"c": 1}}
    definition = read_definition(grid, "grid.yaml")
    assert {axis: list(levels) for axis, levels in definition.axes.items()} == {
        "memory": ["on", "off"],
        "c": ["0.5", "1"],
    }
    assert definition.base == {"memory": "on", "c": "1"}


@pytest.mark.parametrize(("seeds", "read"), [(3, (0, 1, 2)), ([5], (5,)), ([2, 0], (2, 0))])
def test_read_definition_reads_seeds(seeds: Any, read: tuple[int, ...]) -> None:
    assert read_definition({"axes": AXES, "seeds": seeds}, "grid.yaml").seeds == read


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axis": {}}, r"grid\.yaml: grid\.axis: unknown key; did you mean axes"),
        ({"axes": {}}, r"grid\.axes: expected at least one axis"),
        ({"axes": {"a": {"x": {}}}}, r"grid\.axes\.a: expected two or more named levels"),
        ({"axes": {"a": {"x": {}, "y": 3}}}, r"grid\.axes\.a\.y: expected overrides .* got 3"),
        ({"axes": {"a": {"1": {}, 1: {}}}}, r"grid\.axes\.a\.1: there are two levels of this name"),
        ({"axes": {"seed": {"1": {}, "2": {}}}}, r"grid\.axes\.seed: .*column of that name"),
        ({"axes": {"a": {"x": {}, "y": {"data.seed": 1}}}}, r"axes\.a\.y: a level cannot set data\.seed: grid\.seeds"),
        ({"axes": {"a": {"x": {}, "y": {"a..b": 1}}}}, r"'a\.\.b' is not a key"),
        ({"design": "latin"}, r"grid\.design: 'latin' is none of the choices.*one_at_a_time"),
        ({"design": "list"}, r"grid\.cells: goes with design: list"),
        ({"cells": [{}]}, r"grid\.cells: goes with design: list"),
        ({"design": "list", "cells": [{"memory": "off"}]}, r"the base \(memory: on, width: 8\) is not among them"),
        ({"base": {"memry": "on"}}, r"grid\.base\.memry: there is no such axis; did you mean memory"),
        ({"base": {"memory": "onn"}}, r"grid\.base\.memory: there is no level 'onn'; did you mean on"),
        ({"exclude": {"memory": "on"}}, r"grid\.exclude: expected a list"),
        ({"exclude": [{"memory": "no"}]}, r"grid\.exclude\[0\]\.memory: there is no level 'no'"),
        ({"seeds": 0}, r"grid\.seeds: expected how many"),
        ({"seeds": [1, 1]}, r"grid\.seeds: the same seed twice"),
        ({"seeds": [True]}, r"grid\.seeds: expected how many"),
        ({"budget": "50M"}, r"grid\.budget: expected tokens, FLOPs, hours or steps"),
        ({"match": "width"}, r"grid\.match: 'width' is none of the choices"),
        ({"match_by": "chunk_size"}, r"grid\.match_by: 'chunk_size' is none of the choices"),
        ({"metric": 3}, r"grid\.metric: expected a metric's name|grid\.metric: expected the name"),
        ({"mode": "least"}, r"grid\.mode"),
        ({"retries": -1}, r"grid\.retries: expected a number of at least 0"),
    ],
)
def test_read_definition_names_the_mistake(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_definition({"axes": AXES} | change, "grid.yaml")


@pytest.mark.parametrize("grid", [None, [], "axes"])
def test_read_definition_refuses_what_is_no_mapping(grid: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected keys and values"):
        read_definition(grid, "grid.yaml")
