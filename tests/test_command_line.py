"""`gecko-lab`, as a user types it: what each verb prints, and one clear message with exit code 2 for every mistake."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gecko_lab
from gecko_lab.__main__ import TRAINING, VERBS, main
from gecko_lab.registry import SLOTS, components
from tests.training import arguments, write_text


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str) -> int:
    """The exit code of a command in this process; argparse leaves by SystemExit after --help and --print_config."""
    try:
        return main(list(words))
    except SystemExit as end:
        return int(end.code or 0)


def process(*words: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "gecko_lab", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--version"], ["fitt"]], ids=str)
def test_nothing_heavy_is_imported_before_a_verb_needs_it(words: list[str]) -> None:
    heavy = ["torch", "lightning", "jsonargparse", "numpy", "litdata", "yaml"]
    code = (
        f"import sys; from gecko_lab.__main__ import main; main({words!r}); "
        f"print('imported', [name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported []"


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    printed = capsys.readouterr().out
    for verb in [*TRAINING, *VERBS]:
        assert re.search(rf"^  {verb} ", printed, re.MULTILINE), verb


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"gecko-lab {gecko_lab.__version__}\n"


@pytest.mark.parametrize("words", [["components"], ["data", "prepare"], ["data", "inspect"], ["fit"]], ids=" ".join)
def test_every_verb_has_help_with_an_example(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words, "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    if words == ["fit"]:  # the description of Lightning's verbs stands at their top
        assert "--model.optimizer.lr" in printed
    else:
        assert f"Example: gecko-lab {' '.join(words)}" in printed


# arguments, what the message must hold
MISTAKES: list[tuple[list[str], list[str]]] = [
    (["fti"], ["unknown verb 'fti'", "did you mean fit"]),
    (["data", "prepar"], ["unknown 'prepar'", "did you mean prepare"]),
    (["data", "prepare", "--source", "x"], ["--source", "did you mean sources"]),
    (["data", "prepare", "--sources", "x.foo"], ["x.foo", ".txt"]),
    (["data", "prepare", "--sources", "nowhere/"], ["nowhere", "does not exist"]),
    (["data", "prepare", "--tokenizer", "byts"], ["byts", "bytes"]),
    (["data", "inspect", "--folder", "nowhere"], ["nowhere", "not a prepared dataset"]),
    (["data", "inspect"], ["folder"]),
    (["components", "AdaptivMemory"], ["unknown component or slot 'AdaptivMemory'", "AdaptiveWorkingMemory"]),
    (["components", "--size", "16m"], ["--size", "'16m'", "did you mean 15m"]),
    (["components", "--length", "long"], ["length", "int", "long"]),
    (["fit", "--config", "unknown_key.yaml"], ["trainer.max_step", "did you mean trainer.max_steps"]),
    (["fit", "--config", "unknown_group.yaml"], ["trainr", "did you mean trainer"]),
    (["fit", "--config", "unknown_option.yaml"], ["layer.memory.capacty", "AdaptiveWorkingMemory", "capacity"]),
    (["fit", "--config", "not_keys.yaml"], ["not_keys.yaml", "data", "5"]),
    (["fit", "--config", "nowhere.yaml"], ["nowhere.yaml", "quickstart.yaml"]),
    (["fit", "--config"], ["--config needs a value"]),
    (["fit", "stray"], ["unrecognized arguments: stray"]),
    (["fit", "--trainer.max_step", "3"], ["--trainer.max_step 3", "did you mean trainer.max_steps"]),
    (["fit", "--trainer.max_s=3"], ["--trainer.max_s"]),
    (["fit", "--data.seq=3"], ["--data.seq"]),
    (["fit", "--model.optimizer.learning_rat=1"], ["learning_rat"]),
    (["fit", "--model.optimzer.lr=1"], ["--model.optimzer.lr", "did you mean model.optimizer.lr"]),
    (["fit", "--trainer.max_steps", "many"], ["trainer.max_steps", "int", "many"]),
    (["fit", "--model.optimizer.lr=fast"], ["model.optimizer.lr", "float", "fast"]),
    (["fit", "--model.optimizer.lr=-1"], ["model.optimizer.lr", "-1"]),
    (["fit", "--model.optimizer.schedule=cosin"], ["model.optimizer.schedule", "cosin", "'cosine'"]),
    (["fit", "--model.optimizer.warmup=10M"], ["model.optimizer.warmup", "10M", "tokens"]),
    (["fit", "--data.batch_size=0"], ["batch_size", "0"]),
    (["fit", "--data.tokenizer=byts"], ["byts", "'bytes'"]),
    (["fit", "--data.sources=nowhere.txt"], ["nowhere.txt"]),
    (["fit", "--data.sources=x.foo"], ["x.foo", ".txt"]),
    (["fit", "--model.network.size=16m"], ["model.network.size", "'16m'", "did you mean 15m"]),
    (["fit", "--model.network.layer.mem=null"], ["model.network.layer.mem", "did you mean memory"]),
    (["fit", "--model.network.layer.memory=Adaptive"], ["model.network.layer.memory", "'Adaptive'", "AdditiveMemory"]),
    (["fit", "--model.network.layer.num_heads=3"], ["8", "3 heads"]),
    (["fit", "--model.network.vocab_size=10"], ["model.network.vocab_size", "10", "257"]),
    (["fit", "--model.optimizer.batch_tokens=100"], ["model.optimizer.batch_tokens", "100", "128"]),
    (["fit", "--run", "taken"], ["--run", "taken", "holds something else than a run"]),
    (["validate", "--ckpt_path", "x.foo", "--run", "taken"], ["--ckpt_path", "x.foo", "not a checkpoint"]),
    (["fit", "--trainer.default_root_dir=elsewhere"], ["trainer.default_root_dir", "--run"]),
    (["fit", "--module", "RecalTask"], ["module", "'RecalTask'", "RecallTask"]),
    (["fit", "--checkpoint.every", "often"], ["checkpoint.every", "often", "10 minutes"]),
    (["fit", "--checkpoint.keep_last=0"], ["checkpoint.keep_last", "at least 1"]),
    (["fit", "--checkpoint.monitor=losss"], ["checkpoint.monitor", "losss", "loss/validation"]),
    (["fit", "--trainer.precision=8"], ["precision", "8"]),
    (["fit", "--trainer.accelerator=abacus"], ["abacus"]),
    (["validate", "--ckpt_path", "no.ckpt"], ["--ckpt_path", "no.ckpt"]),
]


def make_files(folder: Path) -> None:
    """What the mistakes speak of."""
    write_text(folder)
    (folder / "unknown_key.yaml").write_text("trainer: {max_step: 3}")
    (folder / "unknown_group.yaml").write_text("trainr: {max_steps: 3}")
    (folder / "unknown_option.yaml").write_text("model: {network: {layer: {memory: {capacty: 2}}}}")
    (folder / "not_keys.yaml").write_text("data: 5")
    (folder / "x.foo").write_text("text")
    (folder / "taken").mkdir()
    (folder / "taken" / "notes.txt").touch()


@pytest.mark.parametrize(("words", "parts"), MISTAKES, ids=lambda value: " ".join(value)[:50])
def test_a_mistake_is_one_message_and_exit_code_2(
    words: list[str], parts: list[str], working_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_files(working_directory)
    before = sorted(working_directory.iterdir())
    if words[0] in TRAINING:
        words = [words[0], *arguments(working_directory, trainer__max_steps=1), *words[1:]]
    assert main(words) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("gecko-lab: ")
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message
    assert "usage:" not in message
    assert not re.search(r"^gecko-lab: \W*$", message)
    new = {path.name for path in working_directory.iterdir()} - {path.name for path in before}
    assert new <= {"cache"}  # no run's folder stays behind


@pytest.mark.parametrize("words", [["fitt"], ["fit", "--trainer.max_step=3"], ["components", "Nothing"]], ids=" ".join)
def test_a_mistake_in_a_process_of_its_own(words: list[str]) -> None:
    done = process(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("gecko-lab: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_components_lists_every_slot_and_component(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("components") == 0
    printed = capsys.readouterr().out
    for slot, base in SLOTS.items():
        assert f"\n{slot}: {base.title}" in printed
        for name in components(base):
            assert re.search(rf"^  {name} .*parameters.*FLOP/token.*bytes of state", printed, re.MULTILINE), name


def test_components_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("components", "--json", "--size", "7b", "--length", "1000") == 0
    listed = json.loads(capsys.readouterr().out)
    assert {item["name"] for item in listed} == {name for slot in SLOTS.values() for name in components(slot)}
    full = next(item for item in listed if item["name"] == "FullAttention")
    assert full["slot"] == "attention"
    assert full["cost"]["state_bytes"] > 0
    assert all({"name", "type", "default", "description"} == option.keys() for i in listed for option in i["options"])


def test_components_of_one_name_and_of_a_slot(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("components", "AdaptiveWorkingMemory") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("AdaptiveWorkingMemory (slot memory, gecko_lab.components.memory.adaptive)")
    assert "capacity: float = 1.0" in printed
    assert run("components", "memory", "--json") == 0
    assert [item["slot"] for item in json.loads(capsys.readouterr().out)] == ["memory"] * len(
        components(SLOTS["memory"])
    )


def test_data_prepare_and_inspect(working_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_text(working_directory)
    prepare = ["data", "prepare", "--sources", "text.jsonl", "--folder", "prepared", "--cache_folder", "cache"]
    assert run(*prepare, "--json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert sum(split["documents"] for split in manifest["splits"].values()) == 80
    assert run("data", "inspect", "--folder", "prepared", "--num_samples=1") == 0
    printed = capsys.readouterr().out
    assert "bytes (257 ids, BOS 256)" in printed
    assert "--- train, document 0" in printed
    assert "alpha" in printed


def test_print_config_round_trip(working_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags: dict[str, Any] = {"model__optimizer__warmup": "10k tokens", "trainer__precision": "bf16-mixed"}
    assert run("fit", *arguments(working_directory, **flags), "--print_config") == 0
    first = capsys.readouterr().out
    for text in (
        "capacity: 1.0",
        "chunk_size: 8",
        "warmup: 10k tokens",
        "precision: bf16-mixed",
        "sequence_length: 32",
    ):
        assert text in first
    (working_directory / "printed.yaml").write_text(first)
    assert run("fit", "--config", "printed.yaml", "--print_config") == 0
    assert capsys.readouterr().out == first
    assert {path.name for path in working_directory.iterdir()} == {"printed.yaml", "text.jsonl"}
