"""`gecko-lab bench train`: the gate, what is measured, what is printed; nothing depends on how fast anything is."""

import contextlib
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.bench import memory, train_command, train_table
from gecko_lab.bench.gate import Verdict
from gecko_lab.bench.models import Recipe, build
from gecko_lab.bench.train_command import memory_by_token, train
from gecko_lab.bench.training import Load, TrainingStep, draw_tokens, peak_bytes
from gecko_lab.errors import ConfigurationError
from gecko_lab.parser import run_function
from tests.bench.ceilings import CEILING, know_ceilings

CPU = torch.device("cpu")
MODELS = ["gecko", "llama"]
SMALL: dict[str, Any] = {"size": "tiny", "vocab_size": 61, "chunk_size": 32, "threads": 1, "rounds": 2}


@pytest.fixture(autouse=True)
def known_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    know_ceilings(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def result(folder: Path) -> dict[str, Any]:
    """What a run of three lengths gives."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        know_ceilings(patch)
        train(models=",".join(MODELS), lengths="64,512,1k", batch_size=2, out=str(folder), json=True, **SMALL)
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def test_train_measures_every_model_at_every_length(result: dict[str, Any]) -> None:
    assert [model["name"] for model in result["models"]] == MODELS
    assert [one["length"] for one in result["lengths"]] == [64, 512, 1024]
    assert all(result["check"][name]["green"] for name in MODELS)
    for one in result["lengths"]:
        for row, model in zip(one["models"], result["models"], strict=True):
            assert row["name"] == model["name"]
            seconds, speed = row["seconds"], row["tokens_per_second"]
            assert len(seconds["samples"]) == 2
            assert speed["max"] == pytest.approx(2 * one["length"] / seconds["min"])
            assert row["peak_share"] == pytest.approx(row["flops"] / seconds["median"] / CEILING)
            # three forward passes' worth, of which products with the weights but for the embedding are two each
            assert row["flops"] >= 3 * 2 * (model["parameters"] - 61 * 128) * 0.9 * 2 * one["length"]


@pytest.mark.skipif(not memory.KNOWN, reason="the system does not tell a process its peak")
def test_train_measures_memory_by_token(result: dict[str, Any]) -> None:
    for model in result["memory"]:
        assert [(slope["from"], slope["to"]) for slope in model["slopes"]] == [(64, 512), (512, 1024)]
        # at least a few activations of the residual stream, at most the square of anything
        assert all(2 * 4 * 128 * 10 < slope["bytes_per_token"] < 2 * 4 * 128 * 1000 for slope in model["slopes"])
        assert model["growth"] == model["slopes"][1]["bytes_per_token"] / model["slopes"][0]["bytes_per_token"]


def test_train_writes_its_files(result: dict[str, Any], folder: Path) -> None:
    assert json.loads((folder / "train.json").read_text()) == result
    assert (folder / "train.png").read_bytes().startswith(b"\x89PNG")
    drawn = (folder / "train.svg").read_text()
    assert drawn.count("<!-- tokens/s -->") == 1
    assert all(f"<!-- {name} -->" in drawn for name in MODELS)


def test_show_fits_100_columns_and_names_everything(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    train_table.show(result)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "…" not in printed
    for model in result["models"]:
        assert f"{model['description']}; {model['parameters']:,} parameters" in printed
    assert all(f"2 × {one['length']:,} tokens" in printed for one in result["lengths"])
    assert result["command"] in " ".join(printed.split())


def test_train_gives_no_speed_to_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(recipe: Recipe, precision: str, device: torch.device) -> Verdict:
        return Verdict(recipe.name, {"y": 1e-7, "gradient": 0.5 if recipe.name == wrong else 0.0}, limits)

    limits = {"y": 1e-5, "gradient": 1e-4}
    monkeypatch.setattr(train_command, "check_training", check)
    for wrong, measured in (("megalodon", ["gecko"]), ("gecko", [])):
        with pytest.raises(SystemExit) as stop:
            train(models="gecko,megalodon", lengths="32", measure="speed", **SMALL)
        assert stop.value.code == 1
        printed = capsys.readouterr().out
        assert f"{wrong}: WRONG, no speed: gradient by 5e-01 (limit 1e-04)" in printed
        assert printed.count("parameters") == len(measured)


def test_train_goes_on_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def short(load: Load) -> int | None:
        if load.recipe.name == "megalodon":
            raise MemoryError("the process was killed")
        return 2**20

    monkeypatch.setattr(train_command, "peak_bytes", short)
    train(models="gecko,megalodon", lengths="32", **SMALL)
    lines = capsys.readouterr().out.splitlines()
    assert "megalodon: not measured: the process was killed" in lines
    (row,) = (line for line in lines if line.startswith("gecko "))
    assert "s (" in row


@given(
    st.dictionaries(st.integers(1, 10**6), st.none() | st.integers(0, 10**12), max_size=6),
    st.integers(1, 10**4),
    st.integers(0, 10**9),
)
def test_memory_by_token_of_a_straight_line(missing: dict[int, int | None], slope: int, offset: int) -> None:
    lengths = [
        {"length": n, "models": [{"name": "a", "bytes": None if gap is None else offset + slope * n}]}
        for n, gap in missing.items()
    ]
    known = sum(gap is not None for gap in missing.values())
    found = memory_by_token("a", lengths)
    assert len(found["slopes"]) == max(known - 1, 0)
    assert all(one["bytes_per_token"] == pytest.approx(slope) for one in found["slopes"])
    assert found["growth"] == (pytest.approx(1) if known > 2 else None)


@pytest.mark.parametrize("family", ["gecko", "transformers-llama", "transformers-mamba2"])
def test_checkpointed_layers_give_the_same_gradient(family: str) -> None:
    if family != "gecko":
        pytest.importorskip("transformers")
    gradients = []
    for checkpoint_layers in (False, True):
        model = build(Recipe(family, family, "tiny", 31, checkpoint_layers=checkpoint_layers))
        model.loss(draw_tokens((2, 41), 31, CPU)).backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


def test_training_step_moves_every_weight() -> None:
    model = build(Recipe("gecko", "gecko", "tiny", 31, 16))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    step = TrainingStep(model, draw_tokens((2, 41), 31, CPU), "32-true")
    step()
    still = [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]
    assert not still
    assert torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]) <= 1 + 1e-5


def test_in_new_process_says_that_memory_is_short() -> None:
    with pytest.raises(MemoryError, match="killed"):
        memory.in_new_process(signal.raise_signal, signal.SIGKILL)


def test_peak_bytes_grows_with_the_batch() -> None:
    small, large = (
        peak_bytes(Load(Recipe("gecko", "gecko", "tiny", 31, 16), size, 256, "32-true", CPU, 1)) for size in (1, 8)
    )
    if memory.KNOWN:
        assert small is not None
        assert large is not None
        assert 4 * small < large < 9 * small
    else:
        assert small is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "gecko,lama"], "--models: unknown 'lama'; did you mean llama?"),
        (["--lengths", "2048,,4"], "--lengths: expected numbers with commas between"),
        (["--lengths", "0"], "--lengths: expected numbers"),
        (["--size", "14m"], "has no size '14m'"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--batch_size", "0"], "--batch_size must be at least 1, got 0"),
        (["--device", "abacus"], "--device: there is no device 'abacus'"),
        (["--precision", "16"], "precision"),
        (["--compare", "no-such-revision"], "--compare: git knows no revision 'no-such-revision'"),
        (["--out", "/dev/null/folder"], "--out /dev/null/folder"),
    ],
)
def test_train_refuses_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        run_function(train, "gecko-lab bench train", arguments)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1
