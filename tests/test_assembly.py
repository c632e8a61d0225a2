"""From what a user writes under `model.network` to a network: merging, resolving, building, and every mistake."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab import Network, build
from gecko_lab.assembly import NETWORK_OPTIONS, assemble, merge, resolve
from gecko_lab.errors import ConfigurationError
from gecko_lab.families import FAMILIES
from gecko_lab.registry import components, options
from gecko_lab.slots import Layer

ADDITIVE = {"class_path": "AdditiveMemory", "init_args": {"capacity": 2.0}}
TINY = {"size": "tiny", "num_layers": 1, "model_dim": 16, "vocab_size": 5}
TINY_LAYER = {"num_heads": 2, "z_dim": 8, "value_dim": 8, "hidden_dim": 8, "chunk_size": 4}


@pytest.mark.parametrize(
    ("base", "change", "expected"),
    [
        ({"size": "tiny"}, {"size": "15m"}, {"size": "15m"}),
        ({"size": "tiny"}, {"dropout": 0.1}, {"size": "tiny", "dropout": 0.1}),
        ({"memory": ADDITIVE}, {"memory": None}, {"memory": None}),
        ({"memory": None}, {"memory": "AdditiveMemory"}, {"memory": "AdditiveMemory"}),
        # another class drops the options of the old one, the same class keeps them
        ({"memory": ADDITIVE}, {"memory": "AdaptiveWorkingMemory"}, {"memory": "AdaptiveWorkingMemory"}),
        ({"memory": ADDITIVE}, {"memory": {"class_path": "X"}}, {"memory": {"class_path": "X"}}),
        ({"memory": ADDITIVE}, {"memory": "AdditiveMemory"}, {"memory": ADDITIVE}),
        ({"memory": ADDITIVE}, {"memory": {"class_path": "AdditiveMemory"}}, {"memory": ADDITIVE}),
        # options alone change those of the part that stands there
        ({"memory": ADDITIVE}, {"memory": {"capacity": 3}}, {"memory": {**ADDITIVE, "init_args": {"capacity": 3}}}),
        (
            {"memory": ADDITIVE},
            {"memory": {"init_args": {"leak": 3}}},
            {"memory": {**ADDITIVE, "init_args": {"capacity": 2.0, "leak": 3}}},
        ),
        (
            {"memory": "AdditiveMemory"},
            {"memory": {"capacity": 3}},
            {"memory": {"class_path": "AdditiveMemory", "init_args": {"capacity": 3}}},
        ),
        ({"memory": {"capacity": 2}}, {"memory": {"leak": 1}}, {"memory": {"capacity": 2, "leak": 1}}),
        # what is said of a list of layers is said of each
        (
            {"layer": ["A", {"class_path": "B", "init_args": {"x": 1}}]},
            {"layer": {"y": 2}},
            {"layer": [{"class_path": "A", "init_args": {"y": 2}}, {"class_path": "B", "init_args": {"x": 1, "y": 2}}]},
        ),
        ({"layer": ["A", "B"]}, {"layer": "C"}, {"layer": "C"}),
        ({"layer": ["A", "B"]}, {"layer": ["C"]}, {"layer": ["C"]}),
    ],
)
def test_merge(base: Any, change: Any, expected: Any) -> None:
    before = copy.deepcopy((base, change))
    merged = merge(base, change)
    assert merged == expected
    assert (base, change) == before


part = st.none() | st.sampled_from(["A", "B"]) | st.dictionaries(st.sampled_from("xy"), st.integers(0, 2))
part |= st.builds(
    lambda name, given: {"class_path": name, "init_args": given},
    st.sampled_from(["A", "B"]),
    st.dictionaries(st.sampled_from("xy"), st.integers(0, 2)),
)
any_tree = st.fixed_dictionaries({}, optional={"size": st.sampled_from(["s", "t"]), "memory": part, "layer": part})
options_alone = st.fixed_dictionaries(
    {},
    optional={
        "size": st.sampled_from(["s", "t"]),
        "memory": st.fixed_dictionaries({}, optional={"x": st.integers(0, 2), "y": st.none() | st.integers(0, 2)}),
    },
)


@given(any_tree, any_tree)
def test_merge_a_change_twice_is_once(a: Any, b: Any) -> None:
    assert merge(merge(a, b), b) == merge(a, b)


@given(any_tree)
def test_merge_with_nothing_or_itself_changes_nothing(a: Any) -> None:
    assert merge({}, a) == merge(a, {}) == merge(a, a) == a


@given(options_alone, options_alone, options_alone)
def test_merge_is_associative_where_no_part_is_switched(a: Any, b: Any, c: Any) -> None:
    """With classes it is not: what options mean depends on the part that stands there; files are read in order."""
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


TREES: dict[str, Any] = {
    "nothing": None,
    "empty": {},
    "name": {"layer": "TransformerLayer"},
    "options": {"layer": {"memory": {"capacity": 2}, "attention": None}},
    "class and options": {"layer": {"class_path": "GeckoLayer", "init_args": {"memory": ADDITIVE}}},
    "megalodon": FAMILIES["megalodon"],
    "list": {"layer": ["GeckoLayer", {"class_path": "TransformerLayer", "init_args": {"num_heads": 4}}]},
    "full path": {"layer": "gecko_lab.components.layer.gecko.GeckoLayer"},
}


@pytest.mark.parametrize("name", TREES)
def test_resolve_writes_every_default_and_is_idempotent(name: str) -> None:
    resolved = resolve(TREES[name])
    assert json.loads(json.dumps(resolved)) == resolved
    assert resolve(resolved) == resolved
    assert resolved.keys() == NETWORK_OPTIONS.keys()
    layers = resolved["layer"] if isinstance(resolved["layer"], list) else [resolved["layer"]]
    for layer in layers:
        cls = components(Layer)[layer["class_path"].rpartition(".")[2]]
        assert layer["init_args"].keys() == options(cls).keys()
        for key, option in options(cls).items():
            value = layer["init_args"][key]
            if option.slot is not None and value is not None:
                assert value["init_args"].keys() == options(components(option.slot)[value["class_path"]]).keys()


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"layer": {"memory": "AdditiveMemory"}}, {"layer": {"memory": {"class_path": "AdditiveMemory"}}}),
        (
            {"layer": {"memory": {"capacity": 2}}},
            {"layer": {"memory": {"class_path": "AdaptiveWorkingMemory", "init_args": {"capacity": 2.0}}}},
        ),
        ({"layer": {"memory": {"init_args": {"capacity": 2}}}}, {"layer": {"memory": {"capacity": "2.0"}}}),
        ({"layer": {"num_heads": 4}}, {"layer": {"class_path": "GeckoLayer", "init_args": {"num_heads": 4}}}),
        ({"layer": ["GeckoLayer"]}, {"layer": "GeckoLayer"}),
        ({}, {"size": "15m", "layer": "GeckoLayer", "dropout": "0"}),
    ],
)
def test_resolve_short_forms_equal_long_forms(short: Any, long: Any) -> None:
    assert resolve(short) == resolve(long)


def layer_options(**given: Any) -> dict[str, Any]:
    return {"layer": given}


MISTAKES: list[tuple[Any, list[str]]] = [
    ([1], ["model.network: expected keys and values, got [1]", "size"]),
    ({"sizes": "tiny"}, ["model.network.sizes: unknown option", "did you mean size"]),
    ({1: 2}, ["model.network.1: unknown option", "valid:"]),
    ({"size": "16m"}, ["model.network.size", "no size '16m'", "did you mean 15m", "7b"]),
    ({"size": None}, ["model.network.size: cannot be null", "str"]),
    ({"num_layers": 1.5}, ["model.network.num_layers: expected int or null, got 1.5"]),
    ({"num_layers": True}, ["model.network.num_layers: expected int or null, got True"]),
    ({"num_layers": 0}, ["model.network.num_layers: must be at least 1, got 0"]),
    ({"model_dim": -8}, ["model.network.model_dim: must be at least 1, got -8"]),
    ({"dropout": "much"}, ["model.network.dropout: expected float, got 'much'"]),
    ({"dropout": 1.5}, ["model.network.dropout: must lie in [0, 1], got 1.5"]),
    ({"layer": None}, ["model.network.layer", "None"]),
    ({"layer": []}, ["model.network.layer", "empty"]),
    ({"layer": 5}, ["model.network.layer", "5"]),
    ({"layer": "GekoLayer"}, ["model.network.layer: unknown component 'GekoLayer'", "did you mean GeckoLayer"]),
    ({"layer": "AdditiveMemory"}, ["model.network.layer: AdditiveMemory belongs to the slot memory", "GeckoLayer"]),
    ({"layer": ["GeckoLayer", {"memry": None}]}, ["model.network.layer[1].memry", "did you mean memory"]),
    (layer_options(memry=None), ["model.network.layer.memry: unknown option of GeckoLayer", "did you mean memory"]),
    (layer_options(memory={"capacty": 1}), ["layer.memory.capacty: unknown option of Adaptive", "capacity"]),
    (layer_options(memory={"capacity": None}), ["layer.memory.capacity: cannot be null", "float"]),
    (layer_options(memory={"capacity": "x"}), ["layer.memory.capacity: expected float, got 'x'"]),
    (layer_options(memory=3), ["layer.memory: expected a component's name or options, got 3"]),
    (layer_options(memory={"class_path": "AdditiveMemory", "init_args": 3}), ["layer.memory", "got 3"]),
    (layer_options(memory={**ADDITIVE, "capacity": 2}), ["layer.memory: capacity beside class_path", "init_args"]),
    (layer_options(num_heads=0), ["layer.num_heads: must be at least 1, got 0"]),
    (layer_options(hidden_dim=-2), ["layer.hidden_dim: must be at least 1, got -2"]),
    (layer_options(attention_dropout=-1), ["layer.attention_dropout: must lie in [0, 1], got -1"]),
    (
        {"layer": {"class_path": "TransformerLayer", "init_args": {"attention": None}}},
        ["model.network.layer.attention: cannot be null", "FullAttention"],
    ),
]


@pytest.mark.parametrize(("tree", "parts"), MISTAKES, ids=lambda value: str(value)[:60])
def test_resolve_names_key_value_and_nearest_names(tree: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve(tree)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layer", "numbers"),
    [
        ({"num_heads": 3}, ["z_dim 64", "3 heads"]),
        ({"value_dim": 9}, ["value_dim 9", "2 heads"]),
        ({"z_dim": 6}, ["even key dim", "3"]),
        ({"norm_num_groups": 7}, ["7 groups", "128 features"]),
        ({"timestep_norm": {"num_groups": 5}}, ["TimestepDecayNorm", "5 groups", "128 features"]),
        ({"memory": {"capacity": 0.3}}, ["capacity 0.3", "key dim of 32", "9.6"]),
        ({"attention": {"num_rope_heads": 3}}, ["num_rope_heads", "2", "got 3"]),
        ({"attention": {"class_path": "SlidingWindowAttention", "init_args": {"window": 0}}}, ["window", "got 0"]),
        ({"class_path": "TransformerLayer", "init_args": {"num_heads": 3}}, ["model_dim 128", "3 heads"]),
        (
            {"class_path": "TransformerLayer", "init_args": {"num_key_value_heads": 3}},
            ["4 query heads", "3 key heads"],
        ),
    ],
    ids=str,
)
def test_assemble_says_which_sizes_clash(layer: Any, numbers: list[str]) -> None:
    with torch.device("meta"), pytest.raises(ConfigurationError, match=r"^model\.network: ") as caught:
        assemble({"size": "tiny", "num_layers": 1, "vocab_size": 5, "layer": layer})
    for number in numbers:
        assert number in str(caught.value)


def test_assemble_asks_for_the_vocabulary() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.network\.vocab_size"):
        assemble({"size": "tiny"})


def test_assemble_cycles_a_list_of_layers() -> None:
    network = assemble({**TINY, "num_layers": 5, "layer": [TINY_LAYER, "TransformerLayer"]})
    names = [type(layer).__name__ for layer in network.layers]
    assert names == ["GeckoLayer", "TransformerLayer", "GeckoLayer", "TransformerLayer", "GeckoLayer"]
    logits, _ = network(torch.zeros(1, 3, dtype=torch.long))
    assert logits.shape == (1, 3, 5)


def test_assemble_gives_each_layer_parts_of_its_own() -> None:
    network = assemble({**TINY, "num_layers": 2, "layer": TINY_LAYER})
    assert network.layers[0].memory is not network.layers[1].memory


@pytest.mark.parametrize("size", ["tiny", "15m", "125m", "350m", "760m", "1.3b", "7b"])
@pytest.mark.parametrize("family", FAMILIES)
def test_build_every_family_and_size_on_meta(family: str, size: str) -> None:
    with torch.device("meta"):
        network = build(f"{family}-{size}", vocab_size=32_000 if size != "15m" else 257)
    assert all(parameter.is_meta for parameter in network.parameters())
    named = {"tiny": 9e6, "15m": 15e6, "125m": 125e6, "350m": 350e6, "760m": 760e6, "1.3b": 1.3e9, "7b": 7e9}[size]
    assert 0.9 < network.num_parameters() / named < 1.2


def test_build_gecko_7b_has_the_authors_parameters() -> None:
    with torch.device("meta"):
        assert round(build("gecko-7b").num_parameters() / 1e6, 1) == 7385.8


@pytest.mark.parametrize("text", ["size: tiny\nnum_layers: 1\n", "model: {network: {size: tiny, num_layers: 1}}\n"])
@pytest.mark.parametrize("kind", [str, Path])
def test_build_from_yaml(tmp_path: Path, text: str, kind: Any) -> None:
    path = tmp_path / "network.yaml"
    path.write_text(text)
    network = build(kind(path), vocab_size=7)
    assert (len(network.layers), network.vocab_size) == (1, 7)


def test_build_overrides_a_name_and_a_mapping() -> None:
    layer = {**TINY_LAYER, "memory": "AdditiveMemory"}
    given = {**TINY, "layer": layer}
    networks = [build("gecko-tiny", **{**given, "size": "tiny"}), build(given), build({"size": "7b"}, **given)]
    for network in networks:
        assert type(network.layers[0].memory).__name__ == "AdditiveMemory"
        assert (network.vocab_size, network.size.model_dim) == (5, 16)
    assert isinstance(networks[0], Network)


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("geko-15m", ["'geko-15m'", "did you mean gecko", "gecko-15m"]),
        ("gecko", ["'gecko'", "FAMILY-SIZE"]),
        ("gecko-", ["'gecko-'", "FAMILY-SIZE"]),
        ("", ["''", "gecko, llama, megalodon"]),
        (5, ["5", "FAMILY-SIZE"]),
        ("gecko-16m", ["network.size", "'16m'", "15m"]),
        ("nowhere.yaml", ["nowhere.yaml"]),
        ({"sizes": "tiny"}, ["network.sizes", "did you mean size"]),
    ],
)
def test_build_names_what_is_unknown(what: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        build(what)
    for part in parts:
        assert part in str(caught.value)
