"""Every file of `experiments/` is short, says what it asks, states only what differs, and runs."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gecko_lab.__main__ import main
from gecko_lab.assembly import resolve
from gecko_lab.configuration import DEFAULT_MODULE, EXPERIMENTS
from gecko_lab.grids.definition import read_definition
from gecko_lab.grids.plan import make_plan
from gecko_lab.yaml_files import read_yaml
from tests.training import write_text

FILES = sorted(path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.yaml"))
GRIDS = [path for path in FILES if "grid" in read_yaml(EXPERIMENTS / path)]
MOST_LINES = 60
# Named even where they are the default: what is trained on what, and what an ablation is about.
NAMED = {"model.network.size", "data.sources", "model.network.layer.memory.init_args.capacity"}
# A tiny network of any layer, on one processor.
TINY = {
    "model.network.size": "tiny",
    "model.network.num_layers": "1",
    "model.network.model_dim": "32",
    "data.batch_size": "2",
    "trainer.accelerator": "cpu",
    "trainer.strategy": "auto",
    "trainer.devices": "1",
    "trainer.num_nodes": "1",
    "trainer.precision": "32",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "trainer.fast_dev_run": "true",
}
# What is learned decides what data there is.
TINY_DATA = {
    "LanguageModel": {
        "model.optimizer.batch_tokens": "256",
        "data.sources": "text.jsonl",
        "data.tokenizer": "bytes",
        "data.sequence_length": "128",
        "data.validation_fraction": "0.3",
        "data.cache_folder": "cache",
        "data.progress": "false",
    },
    "RecallTask": {"data.num_validation_samples": "4"},
}


def leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a tree by its key; the options of a part stand under the part."""
    if not isinstance(tree, dict):
        yield prefix.removesuffix("."), tree
        return
    if set(tree) <= {"class_path", "init_args"}:
        yield f"{prefix}class_path", tree.get("class_path")
        tree = tree.get("init_args") or {}
    for key, value in tree.items():
        yield from leaves(value, f"{prefix}{key}.")


@functools.cache
def defaults(module: str) -> dict[str, Any]:
    """Every option with its default, as `fit --print_config` shows them."""
    with pytest.MonkeyPatch.context() as patch:
        printed: list[str] = []
        patch.setattr("sys.stdout", type("Writer", (), {"write": lambda _, text: printed.append(text), "flush": id})())
        with pytest.raises(SystemExit, match="0"):
            main(["fit", "--module", module, "--print_config"])
    return dict(leaves(yaml.safe_load("".join(printed))))


def test_there_are_the_experiments_that_the_project_names() -> None:
    names = {str(path) for path in FILES}
    assert names >= {
        *("quickstart.yaml", "ablate_awm.yaml", "pretrain_125m.yaml", "pretrain_7b.yaml"),
        *("megalodon.yaml", "llama.yaml", "recall.yaml"),
        *("ablate_components.yaml", "ablate_chunk.yaml", "ablate_recall.yaml", "families.yaml"),
    }


@pytest.mark.parametrize("name", FILES, ids=str)
def test_experiment_is_short_and_says_what_it_asks(name: Path) -> None:
    lines = (EXPERIMENTS / name).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert max(len(line) for line in lines) <= 132
    comment = " ".join(line.lstrip("# ") for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")])
    assert len(comment) > 40, "a file begins with a comment that says what it asks"
    assert f"gecko-lab fit --config {name.name}" in comment


@pytest.mark.parametrize("name", FILES, ids=str)
def test_experiment_states_only_what_differs(name: Path) -> None:
    settings = read_yaml(EXPERIMENTS / name)
    settings.pop("grid", None)
    module = settings.pop("module", DEFAULT_MODULE)
    network = settings["model"].get("network", {})
    settings["model"]["network"] = {}
    stated = dict(leaves(settings))
    restated = {key: value for key, value in stated.items() if defaults(module).get(key, ...) == value}
    whole = resolve(network)
    for path in paths(network):
        if resolve(without(network, path)) == whole:
            key = ".".join(("model", "network", *path))
            restated[key] = "as without it"
    assert {key: value for key, value in restated.items() if key not in NAMED} == {}


@pytest.mark.parametrize("name", GRIDS, ids=str)
def test_grid_states_only_what_differs_and_names_its_command(name: Path) -> None:
    text = (EXPERIMENTS / name).read_text(encoding="utf-8")
    assert f"#   gecko-lab grid {name.name}" in text
    assert text.splitlines()[0].endswith("?"), "the first line is the question that the report shows"
    grid = read_yaml(EXPERIMENTS / name)["grid"]
    whole = read_definition(grid, str(name))
    for key in set(grid) - {"axes"}:
        without_key = {other: value for other, value in grid.items() if other != key}
        assert read_definition(without_key, str(name)) != whole, f"grid.{key} is the default"


@pytest.mark.parametrize("name", GRIDS, ids=str)
def test_grid_can_be_started(name: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(str(name), [])
    plan.take_budget()
    plan.check()
    assert all(variant.steps for variant in plan.variants)
    assert len(plan.variants) >= 2
    assert not list(tmp_path.iterdir())


def paths(tree: Any, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The key of every value of a tree but the class of a part."""
    if not isinstance(tree, dict):
        return [prefix]
    return [path for key, value in tree.items() if key != "class_path" for path in paths(value, (*prefix, key))]


def without(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The tree without one key."""
    key, *rest = path
    if not rest:
        return {other: value for other, value in tree.items() if other != key}
    return {**tree, key: without(tree[key], tuple(rest))}


@pytest.mark.parametrize("name", FILES, ids=str)
def test_experiment_runs_and_leaves_nothing_behind(name: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path, documents=40)
    flags = TINY | TINY_DATA[read_yaml(EXPERIMENTS / name).get("module", DEFAULT_MODULE)]
    options = [word for key, value in flags.items() for word in (f"--{key}", value)]
    assert main(["fit", "--config", str(name), *options]) == 0
    assert {path.name for path in tmp_path.iterdir()} <= {"text.jsonl", "cache"}
