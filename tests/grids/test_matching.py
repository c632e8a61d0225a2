"""Matched variants agree with the base within half a percent, in whole numbers, or are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from gecko_lab.assembly import merge, resolve
from gecko_lab.cost import Cost
from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.cells import Cell
from gecko_lab.grids.matching import TOLERANCE, _nearest, match
from gecko_lab.grids.variants import Variant, tree_cost

VOCAB_SIZE, LENGTH = 64, 128
MEASURES: dict[Any, Callable[[Cost], float]] = {
    "parameters": lambda cost: cost.parameters,
    "flops": lambda cost: cost.flops_per_token,
    "state": lambda cost: cost.state_bytes,
}
BASE = {
    "size": "tiny",
    "num_layers": 2,
    "model_dim": 64,
    "layer": {"z_dim": 32, "value_dim": 128, "hidden_dim": 160, "chunk_size": 16},
}
MEMORIES = [None, "AdditiveMemory", {"capacity": 0.5}, {"capacity": 2}, {"capacity": 4}]
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "memory": st.sampled_from(MEMORIES),
        "attention": st.sampled_from(["ChunkAttention", "SlidingWindowAttention", None]),
        "moving_average": st.sampled_from([None, "RealEMA", {"num_dims": 4}]),
        "timestep_norm": st.sampled_from(["TimestepNorm", None]),
        "feed_forward": st.sampled_from(["MLP"]),
        "num_heads": st.sampled_from([1, 4]),
        "chunk_size": st.integers(5, 24),
    },
)


def variant(name: str, change: dict[str, Any]) -> Variant:
    """A variant without a configuration file."""
    tree = resolve(merge(BASE, {"layer": change}))
    overrides = {f"model.network.layer.{key}": value for key, value in change.items()}
    cost = tree_cost(tree, VOCAB_SIZE, LENGTH)
    return Variant(Cell(name, {}, overrides), {"model": {"network": tree}}, VOCAB_SIZE, LENGTH, 128, 10, cost)


@settings(max_examples=8)
@given(CHANGES, st.sampled_from(["parameters", "flops"]))
@example({"memory": {"capacity": 4}, "attention": "ChunkAttention", "num_heads": 1}, "flops")  # too large
def test_match_agrees_within_the_tolerance_or_refuses_what_is_too_large(change: dict[str, Any], by: Any) -> None:
    base, other = variant("base", {}), variant("other", change)
    before, measure = other.cost, MEASURES[by]
    try:
        match([base, other], base, by, "hidden_dim")
    except ConfigurationError:
        assert measure(other.cost_with(hidden_dim=1)) > (1 + TOLERANCE) * measure(base.cost)
        assert other.cost == before
        return
    assert abs(measure(other.cost) / measure(base.cost) - 1) <= TOLERANCE
    assert other.cost_before == before
    assert other.cost == tree_cost(other.settings["model"]["network"], VOCAB_SIZE, LENGTH)
    assert base.matched == {}
    if other.matched:
        hidden = other.matched["hidden_dim"]
        assert other.settings["model"]["network"]["layer"]["init_args"]["hidden_dim"] == hidden
        gap = abs(measure(other.cost) - measure(base.cost))
        for neighbour in (hidden - 1, hidden + 1):  # none is nearer
            assert abs(measure(other.cost_with(hidden_dim=neighbour)) - measure(base.cost)) >= gap
    else:
        assert other.cost == before


@pytest.mark.parametrize("dimension", ["value_dim", "z_dim"])
@pytest.mark.parametrize("change", [{"memory": {"capacity": 2}}, {"attention": "ChunkAttention"}], ids=str)
def test_match_solves_the_state(change: dict[str, Any], dimension: str) -> None:
    base, other = variant("base", {"z_dim": 128, "value_dim": 512}), variant("other", change)
    match([base, other], base, "state", dimension)
    assert abs(other.cost.state_bytes / base.cost.state_bytes - 1) <= TOLERANCE
    assert other.matched[dimension] % 2 == 0


def test_match_keeps_every_layer_of_a_hybrid_alike() -> None:
    base = variant("base", {})
    tree = resolve({**BASE, "layer": [BASE["layer"], {**BASE["layer"], "memory": {"capacity": 4}}]})  # type: ignore[dict-item]
    cost = tree_cost(tree, VOCAB_SIZE, LENGTH)
    hybrid = Variant(Cell("hybrid", {}, {}), {"model": {"network": tree}}, VOCAB_SIZE, LENGTH, 128, 10, cost)
    match([base, hybrid], base, "parameters", "hidden_dim")
    layers = hybrid.settings["model"]["network"]["layer"]
    assert {layer["init_args"]["hidden_dim"] for layer in layers} == {hybrid.matched["hidden_dim"]}
    assert abs(hybrid.cost.parameters / base.cost.parameters - 1) <= TOLERANCE


def test_match_none_leaves_everything_as_it_is() -> None:
    base, other = variant("base", {}), variant("other", {"hidden_dim": 999})
    match([base, other], base, "none", "hidden_dim")
    assert (other.matched, other.cost) == ({}, other.cost_before)


def test_match_refuses_what_cannot_be_matched_and_tells_all_of_it() -> None:
    base = variant("base", {})
    changes: dict[str, dict[str, Any]] = {
        "itself": {"hidden_dim": 999},
        "inside": {"layer": {"hidden_dim": 1}},
        "without": {"feed_forward": None},
        "too-large": {"value_dim": 4096},
    }
    variants = [variant(name, change) for name, change in changes.items() if name != "inside"]
    with pytest.raises(ConfigurationError) as caught:
        match([base, *variants], base, "parameters", "hidden_dim")
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("3 variants are wrong")
    assert "it sets hidden_dim itself" in lines[0]
    assert "its hidden_dim does not change that" in lines[1]
    assert "the nearest hidden_dim, 1, gives" in lines[2]
    assert all("match: none" in line for line in lines)


@given(st.integers(1, 3), st.floats(0.5, 100), st.floats(0, 1e6), st.floats(0, 1e9))
@example(2, 1.0, 0.0, 1e9)
def test_nearest_finds_what_a_search_over_all_numbers_finds(
    power: int, slope: float, start: float, target: float
) -> None:
    looks = []

    def at(x: int) -> float:
        looks.append(x)
        return start + slope * x**power

    best = _nearest(at, target)
    assert best is not None
    wanted = max((max(target - start, 0) / slope) ** (1 / power), 1)
    assume(wanted < 1 << 23)
    near = range(max(1, int(wanted) - 2), int(wanted) + 4)
    assert abs(at(best) - target) <= min(abs(at(x) - target) for x in near)
    assert len(set(looks)) <= 80
