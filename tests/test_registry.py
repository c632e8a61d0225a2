"""The catalogue: what it lists, what it refuses, and how a package of one's own adds to it."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gecko_lab.assembly import describe
from gecko_lab.components.memory.additive import AdditiveMemory
from gecko_lab.errors import ConfigurationError
from gecko_lab.registry import SLOTS, components, find, options, summary
from gecko_lab.slots import Attention, Layer, Memory
from tests import training

CATALOGUE = {
    "layer": {"GeckoLayer", "TransformerLayer"},
    "timestep_norm": {"TimestepDecayNorm", "TimestepNorm", "RMSNorm"},
    "moving_average": {"ComplexEMA", "RealEMA"},
    "attention": {"SlidingChunkAttention", "ChunkAttention", "SlidingWindowAttention", "FullAttention"},
    "memory": {"AdaptiveWorkingMemory", "AdditiveMemory"},
    "feed_forward": {"SwiGLU", "MLP"},
}
EVERY = [pytest.param(cls, id=name) for slot in SLOTS.values() for name, cls in components(slot).items()]
LEAKY = '''
import torch

from gecko_lab.slots import Memory


class LeakyMemory(Memory):
    """A memory from elsewhere, of the present alone.

    Args:
        leak: what is lost.
    """

    def __init__(self, num_heads: int, key_dim: int, value_dim: int, chunk_size: int, /, *, leak: int = 3) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((value_dim,), 1 / leak))

    def forward(self, q, k, v, state=None, segments=None):
        return v * self.weight, None
'''


@pytest.fixture
def twin() -> Iterator[Callable[[str], str]]:
    """Look at the memories while a second class AdditiveMemory is there: its module, or the error's message."""

    def look(module: str) -> str:
        made = type("AdditiveMemory", (AdditiveMemory,), {"__module__": module})
        try:
            return components(Memory)[made.__name__].__module__
        except ConfigurationError as error:
            return str(error)

    yield look
    gc.collect()
    assert components(Memory)["AdditiveMemory"] is AdditiveMemory  # it is gone for the tests that follow


@pytest.mark.parametrize("slot", CATALOGUE)
def test_components_lists_the_slot(slot: str) -> None:
    assert CATALOGUE.keys() == SLOTS.keys()
    assert set(components(SLOTS[slot])) >= CATALOGUE[slot]
    assert list(components(SLOTS[slot])) == sorted(components(SLOTS[slot]))


@pytest.mark.parametrize("cls", EVERY)
def test_every_component_says_what_it_and_its_options_are(cls: Any) -> None:
    assert len(summary(cls)) > 10
    described = describe(cls)
    json.dumps(described)
    for option, shown in zip(options(cls).values(), described["options"], strict=True):
        assert option.description, f"{cls.__name__}.{option.name} has no description"
        assert option.default is not option.annotation, f"{cls.__name__}.{option.name} has no default"
        assert shown["name"] == option.name
        assert shown["type"] not in ("", "Any")


def test_options_of_a_layer() -> None:
    found = options(components(Layer)["GeckoLayer"])
    memory, heads = found["memory"], found["num_heads"]
    assert (memory.slot, memory.optional) == (Memory, True)
    assert memory.default.__name__ == "AdaptiveWorkingMemory"
    assert (heads.slot, heads.optional, heads.default, heads.annotation) == (None, True, None, int | None)
    attention = options(components(Layer)["TransformerLayer"])["attention"]
    assert (attention.slot, attention.optional) == (Attention, False)


def test_describe_a_memory() -> None:
    described = describe(AdditiveMemory)
    assert described["name"] == "AdditiveMemory"
    assert described["module"] == "gecko_lab.components.memory.additive"
    (capacity,) = described["options"]
    assert (capacity["name"], capacity["type"], capacity["default"]) == ("capacity", "float", 1.0)


def test_components_refuses_two_classes_of_one_name(twin: Callable[[str], str]) -> None:
    message = twin("elsewhere")
    for part in ("two components are called AdditiveMemory", f"{AdditiveMemory.__module__}.A", "elsewhere.A"):
        assert part in message


def test_components_takes_a_module_loaded_again(twin: Callable[[str], str]) -> None:
    assert twin(AdditiveMemory.__module__) == AdditiveMemory.__module__


def test_find_by_name_and_by_path() -> None:
    assert find(Memory, "AdditiveMemory", "here") is AdditiveMemory
    assert find(Memory, "gecko_lab.components.memory.additive.AdditiveMemory", "here") is AdditiveMemory


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("AditiveMemory", ["unknown component 'AditiveMemory'", "did you mean AdditiveMemory"]),
        ("Zzz", ["unknown component 'Zzz'", "AdaptiveWorkingMemory", "AdditiveMemory"]),
        ("ComplexEMA", ["ComplexEMA belongs to the slot moving_average", "AdditiveMemory"]),
        ("nowhere.Memory", ["nowhere.Memory cannot be imported", "nowhere"]),
        ("collections.Nothing", ["collections.Nothing cannot be imported", "Nothing"]),
        ("collections.OrderedDict", ["collections.OrderedDict is not a component of the slot Memory"]),
        ("gecko_lab.components.moving_average.complex_ema.ComplexEMA", ["is not a component of the slot Memory"]),
    ],
)
def test_find_names_the_place_and_the_nearest(name: str, parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find(Memory, name, "model.network.layer.memory")
    for part in ["model.network.layer.memory: ", *parts]:
        assert part in str(caught.value)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """An installed package that adds LeakyMemory by an entry point."""
    folder = tmp_path / "site"
    information = folder / "leaky-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[gecko_lab.components]\nleaky = leaky_memory\n")
    (folder / "leaky_memory.py").write_text(LEAKY)
    return folder


def gecko_lab(package: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process that has the package installed, run in its parent folder."""
    paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "gecko_lab", *arguments]
    return subprocess.run(command, cwd=package.parent, env=environment, capture_output=True, text=True)


def test_a_package_adds_a_memory_that_trains_by_its_bare_name(package: Path) -> None:
    folder = package.parent
    config = "model:\n  network:\n    layer:\n      memory: {class_path: LeakyMemory, init_args: {leak: 5}}\n"
    (folder / "leaky.yaml").write_text(config)
    options = training.arguments(folder, trainer__max_steps=1, trainer__limit_val_batches=0)
    done = gecko_lab(package, "fit", *options, "--config", "leaky.yaml", "--run", "run")
    assert done.returncode == 0, done.stderr
    written = (folder / "run" / "config.yaml").read_text()
    assert "class_path: LeakyMemory" in written
    assert "leak: 5" in written
    assert list((folder / "run" / "checkpoints").glob("*.ckpt"))


def test_a_package_whose_entry_point_is_broken_is_named(package: Path) -> None:
    (package / "leaky_memory.py").write_text("import nothing_of_that_name\n")
    done = gecko_lab(package, "components")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for part in ("leaky = leaky_memory", "gecko_lab.components", "nothing_of_that_name"):
        assert part in done.stderr


def test_a_variant_takes_one_class_in_one_file() -> None:
    """A component of the tree is its own file: no list anywhere names it, only the default of a layer may."""
    root = Path(__file__).resolve().parent.parent
    sources = [*(root / "gecko_lab").glob("*.py"), *(root / "components").rglob("__init__.py")]
    for name in CATALOGUE["memory"] | CATALOGUE["moving_average"] | CATALOGUE["feed_forward"]:
        imports = [path.name for path in sources if f"import {name}" in path.read_text(encoding="utf-8")]
        assert imports == [], f"{name} is listed in {imports}"
