"""A cell's settings are those that `fit` would read; all wrong cells are told at once."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.configuration import read_invocation
from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.cells import Cell
from gecko_lab.grids.variants import Variant, flags, read_variant, read_variants, told
from tests.grids.tiny import MEMORY, VALUE_DIM, write_grid

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("abc é0'\":{}#,", max_size=8)
VALUES = st.recursive(
    PLAIN, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text("ab", min_size=1), x, max_size=3)
)


def base(folder: Path) -> list[str]:
    return ["--config", str(write_grid(folder, {"axes": {}}))]


def variant_of(folder: Path, **overrides: Any) -> Variant:
    plain = {name.replace("__", "."): value for name, value in overrides.items()}
    return read_variant(base(folder), Cell("cell", {"a": "x"}, plain))


@given(VALUES)
def test_flags_of_the_network_are_read_back_as_they_were(value: Any) -> None:
    network = read_invocation(flags({"model.network.key": value})).network
    assert network["key"] == value


@given(VALUES.filter(lambda value: not isinstance(value, str)))
def test_flags_of_other_keys_are_yaml_on_one_line(value: Any) -> None:
    (word,) = flags({"data.key": value})
    assert "\n" not in word
    assert yaml.safe_load(word.removeprefix("--data.key=")) == value


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, {"trainer.max_steps": 6, "model.network.layer.class_path": "GeckoLayer"}),
        (
            {
                "trainer.max_steps": 9,
                "model.optimizer.lr": 1e-5,
                "model.optimizer.duration": None,
                "model.optimizer.betas": [0.5, 0.75],
                "data.packing": "best_fit",
                "model.network.dropout": 1e-1,
                MEMORY: None,
            },
            {
                "trainer.max_steps": 9,
                "model.optimizer.lr": 1e-5,
                "model.optimizer.duration": None,
                "model.optimizer.betas": [0.5, 0.75],
                "data.packing": "best_fit",
                "model.network.dropout": 0.1,
                "model.network.layer.init_args.memory": None,
            },
        ),
        (
            {"model.optimizer": {"schedule": "wsd"}, MEMORY: "AdditiveMemory", f"{MEMORY}.capacity": 2},
            {
                "model.optimizer.schedule": "wsd",
                "model.optimizer.lr": 0.01,
                "model.network.layer.init_args.memory": {"class_path": "AdditiveMemory", "init_args": {"capacity": 2}},
            },
        ),
        (
            {"model.network.layer": [{"memory": None}, "TransformerLayer"]},
            {"model.network.layer.0.init_args.memory": None, "model.network.layer.1.class_path": "TransformerLayer"},
        ),
    ],
    ids=["none", "plain", "nested", "list"],
)
def test_read_variant_puts_overrides_where_they_belong(
    overrides: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    settings = read_variant(base(tmp_path), Cell("cell", {"a": "x"}, overrides)).settings
    for place, wanted in expected.items():
        value: Any = settings
        for key in place.split("."):
            value = value[int(key) if key.isdecimal() else key]
        assert value == wanted, place


def test_read_variant_knows_what_a_run_costs(tmp_path: Path) -> None:
    variant = variant_of(tmp_path, model__optimizer__batch_tokens=256)
    assert (variant.steps, variant.length, variant.tokens_per_step) == (6, 32, 256)
    assert variant_of(tmp_path, trainer__accumulate_grad_batches=3).tokens_per_step == 3 * 128
    without_steps = {"trainer__max_steps": -1, "model__optimizer__duration": "1000 tokens"}
    assert variant_of(tmp_path, **without_steps).steps == -(-1000 // 128)


def test_read_variant_leaves_nothing_behind_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        variant_of(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "text.jsonl"}
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_run_settings_of_a_seed_differ_in_the_seeds_alone(tmp_path: Path) -> None:
    variant = variant_of(tmp_path)
    settings = variant.run_settings(7)
    assert (settings["seed_everything"], settings["data"]["seed"]) == (7, 7)
    settings["seed_everything"], settings["data"]["seed"] = 0, 0
    assert settings == variant.settings


def test_read_variants_tells_all_mistakes_at_once(tmp_path: Path) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "good": {},
        "unknown-option": {f"{MEMORY}.capasity": 2},
        "unknown-class": {MEMORY: "AdaptivMemory"},
        "clash": {VALUE_DIM: 15},
        "unknown-key": {"trainer.max_step": 2},
        "wrong-type": {"data.batch_size": "many"},
        "tokens": {"model.optimizer.batch_tokens": 100},
        "trial": {"trainer.fast_dev_run": True},
        "same-tokens": {"model.optimizer.batch_tokens": 100},
    }
    cells = [Cell(name, {}, overrides) for name, overrides in wrong.items()]
    with pytest.raises(ConfigurationError) as caught:
        read_variants(base(tmp_path), cells)
    first, *lines = str(caught.value).splitlines()
    assert first == "8 variants are wrong, nothing was started:"
    told_of = {line.strip().partition(": ")[0]: line for line in lines}
    assert set(told_of) == {*wrong, "tokens, same-tokens"} - {"good", "tokens", "same-tokens"}
    for name, part in {
        "unknown-option": "did you mean capacity",
        "unknown-class": "or AdaptiveWorkingMemory?",
        "clash": "value_dim 15 does not divide among 2 heads",
        "unknown-key": "max_step",
        "wrong-type": "batch_size",
        "tokens, same-tokens": "100 is not a multiple of the 128 tokens",
        "trial": "fast_dev_run",
    }.items():
        assert part in told_of[name]


def test_told_says_a_mistake_of_many_once() -> None:
    assert told({"a": "no"}) == "one variant is wrong, nothing was started:\n  a: no"
    assert told({"a": "no", "b": "no"}).splitlines()[1:] == ["  a, b: no"]


def test_read_variant_settings_are_plain(tmp_path: Path) -> None:
    settings = variant_of(tmp_path).settings
    assert json.loads(json.dumps(settings)) == settings
