"""The training command line before Lightning sees it: files found and merged, network flags, the run's folder."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gecko_lab.assembly import resolve
from gecko_lab.configuration import EXPERIMENTS, find_config, read_invocation
from gecko_lab.errors import ConfigurationError

MEMORY = "--model.network.layer.memory"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def network_of(*arguments: str) -> Any:
    """`model.network` as the arguments give it, with every default."""
    return resolve(read_invocation(list(arguments)).network)


def memory_of(*arguments: str) -> Any:
    return network_of(*arguments)["layer"]["init_args"]["memory"]


def test_find_config_prefers_the_working_directory(working_directory: Path) -> None:
    assert find_config("quickstart.yaml") == EXPERIMENTS / "quickstart.yaml"
    (working_directory / "quickstart.yaml").write_text("data: {}\n")
    assert find_config("quickstart.yaml").resolve() == working_directory / "quickstart.yaml"
    assert find_config(str(EXPERIMENTS / "quickstart.yaml")) == EXPERIMENTS / "quickstart.yaml"


def test_find_config_suggests_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match=r"--config: .*quickstrt\.yaml.*did you mean quickstart\.yaml"):
        find_config("quickstrt.yaml")


@pytest.mark.parametrize("form", [["--config", "a.yaml"], ["--config=a.yaml"], ["-c", "a.yaml"]])
def test_read_invocation_takes_the_network_out_of_files(working_directory: Path, form: list[str]) -> None:
    content = {"model": {"network": {"size": "tiny"}, "compile": True}, "trainer": {"max_steps": 3}}
    (working_directory / "a.yaml").write_text(yaml.safe_dump(content))
    invocation = read_invocation(["--data.seed=4", *form, "--trainer.max_steps", "5"])
    assert invocation.network == {"size": "tiny"}
    flag, settings, *rest = invocation.arguments[1:]
    assert (flag, json.loads(settings)) == ("--config", {"model": {"compile": True}, "trainer": {"max_steps": 3}})
    assert (invocation.arguments[0], rest) == ("--data.seed=4", ["--trainer.max_steps", "5"])


def test_read_invocation_merges_files_and_flags_in_order(working_directory: Path) -> None:
    (working_directory / "a.yaml").write_text("model: {network: {size: tiny, num_layers: 3, layer: {num_heads: 4}}}")
    (working_directory / "b.yaml").write_text("model: {network: {num_layers: 5, layer: {chunk_size: 7}}}")
    network = network_of("--config", "a.yaml", "--config", "b.yaml", "--model.network.dropout=0.1")
    assert (network["size"], network["num_layers"], network["dropout"]) == ("tiny", 5, 0.1)
    assert (network["layer"]["init_args"]["num_heads"], network["layer"]["init_args"]["chunk_size"]) == (4, 7)
    assert network_of("--config", "b.yaml", "--config", "a.yaml")["num_layers"] == 3
    assert network_of("--model.network.num_layers=9", "--config", "a.yaml")["num_layers"] == 3
    assert network_of("--config", "a.yaml", "--model.network.num_layers=9")["num_layers"] == 9


@pytest.mark.parametrize(
    "arguments",
    [
        [f"{MEMORY}.capacity=2"],
        [f"{MEMORY}.capacity", "2"],
        [f"{MEMORY}.init_args.capacity", "2.0"],
        ["--model.network.layer.init_args.memory.init_args.capacity=2"],
        [f"{MEMORY}={{capacity: 2}}"],
        [MEMORY, '{"class_path": "AdaptiveWorkingMemory", "init_args": {"capacity": 2}}'],
        [f"{MEMORY}=AdaptiveWorkingMemory", f"{MEMORY}.capacity=2"],
        [f"{MEMORY}.class_path=AdaptiveWorkingMemory", f"{MEMORY}.init_args.capacity=2"],
        ["--model.network.layer", "{memory: {capacity: 2}}"],
        ["--model.network", "{layer: {memory: {capacity: 2}}}"],
        [f"{MEMORY}.capacity=1", f"{MEMORY}.capacity=2"],
        [f"{MEMORY}=AdditiveMemory", f"{MEMORY}=AdaptiveWorkingMemory", f"{MEMORY}.capacity=2"],
    ],
    ids=" ".join,
)
def test_read_invocation_takes_network_flags_in_any_form(arguments: list[str]) -> None:
    expected = {"class_path": "AdaptiveWorkingMemory", "init_args": {"capacity": 2.0}}
    assert memory_of(*arguments) == expected
    assert read_invocation(arguments).arguments == []


@pytest.mark.parametrize(
    ("arguments", "memory"),
    [
        ([f"{MEMORY}.capacity=2", MEMORY, "null"], None),
        ([MEMORY, "null", f"{MEMORY}.capacity=2"], ("AdaptiveWorkingMemory", 2.0)),
        ([f"{MEMORY}.capacity=2", f"{MEMORY}=AdditiveMemory"], ("AdditiveMemory", 1.0)),
        ([f"{MEMORY}=AdditiveMemory", f"{MEMORY}.capacity=2"], ("AdditiveMemory", 2.0)),
        ([f"{MEMORY}.capacity=2", "--model.network.layer=GeckoLayer"], ("AdaptiveWorkingMemory", 1.0)),
    ],
)
def test_read_invocation_the_last_flag_wins(arguments: list[str], memory: tuple[str, float] | None) -> None:
    found = memory_of(*arguments)
    assert (found and (found["class_path"], found["init_args"]["capacity"])) == memory


def test_read_invocation_leaves_other_flags_as_they_are() -> None:
    rest = ["--model.networks", "x", "--data.sources=a=b", "--print_config", "--trainer.devices", "2"]
    invocation = read_invocation([*rest[:3], "--model.network.size=tiny", *rest[3:]])
    assert invocation.arguments == rest
    assert invocation.network == {"size": "tiny"}


@pytest.mark.parametrize("form", [["--run", "here/mine"], ["--run=here/mine"]])
def test_read_invocation_run_names_the_folder(form: list[str]) -> None:
    invocation = read_invocation([*form, "--data.seed", "1"])
    assert invocation.run == Path("here/mine")
    assert invocation.arguments == ["--data.seed", "1"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "run"),
        (["--config", "quickstart.yaml"], "quickstart"),
        (["--config", "quickstart.yaml", "--config=runs/first/config.yaml"], "first"),
    ],
)
def test_read_invocation_name_is_the_configurations(working_directory: Path, arguments: list[str], name: str) -> None:
    (working_directory / "runs" / "first").mkdir(parents=True)
    (working_directory / "runs" / "first" / "config.yaml").write_text("data: {seed: 1}\n")
    assert read_invocation(arguments).name == name


def test_read_invocation_takes_module_and_fresh(working_directory: Path) -> None:
    (working_directory / "a.yaml").write_text("module: RecallTask\n")
    assert read_invocation([]).module == "LanguageModel"
    assert read_invocation(["--config", "a.yaml"]).module == "RecallTask"
    assert read_invocation(["--config", "a.yaml", "--module", "LanguageModel"]).module == "LanguageModel"
    assert read_invocation(["--module=LanguageModel", "--config", "a.yaml"]).module == "RecallTask"
    invocation = read_invocation(["--fresh", "--data.seed=1"])
    assert (invocation.fresh, invocation.arguments) == (True, ["--data.seed=1"])
    (working_directory / "b.yaml").write_text("module: [1]\n")
    with pytest.raises(ConfigurationError, match=r"b\.yaml: module: expected a name"):
        read_invocation(["--config", "b.yaml"])


@pytest.mark.parametrize("content", ["", "# nothing\n", "model:\n", "model: {network: }\n"])
def test_read_invocation_takes_files_that_say_nothing(working_directory: Path, content: str) -> None:
    (working_directory / "a.yaml").write_text(content)
    assert network_of("--config", "a.yaml") == resolve({})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config"], "--config needs a value"),
        (["--run"], "--run needs a value"),
        (["--model.network.size"], "--model.network.size needs a value"),
        (["--config", "nowhere.yaml"], r"--config: there is no file nowhere\.yaml"),
        (["--config", "."], r"--config: there is no file \."),
        (["--model.network", "{size: tiny"], r"--model\.network: '\{size: tiny' is not a YAML value"),
        (["--config", "flat.yaml"], r"flat\.yaml: data: expected keys and values, got 5"),
    ],
)
def test_read_invocation_refuses(working_directory: Path, arguments: list[str], message: str) -> None:
    (working_directory / "flat.yaml").write_text("data: 5\n")
    with pytest.raises(ConfigurationError, match=message):
        read_invocation(arguments)
