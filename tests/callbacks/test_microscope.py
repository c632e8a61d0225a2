"""The microscope in tiny trainings: what it logs and tells, and that it changes nothing."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from gecko_lab import LanguageModel
from gecko_lab.callbacks.microscope import Microscope
from gecko_lab.errors import ConfigurationError
from gecko_lab.microscope.probe import Probe
from tests.callbacks.fits import Samples, fit, logged, tiny_model
from tests.test_nonfinite import TRANSFORMER
from tests.training import LAYER

SHORT_CHUNKS = {**LAYER, "chunk_size": 4}
DROPOUT = {"dropout": 0.1, "hidden_dropout": 0.1, "attention_dropout": 0.1}


def rows(folder: Path) -> dict[int, dict[str, str]]:
    """What the microscope logged, by step and name."""
    found: dict[int, dict[str, str]] = {}
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            seen = {name: value for name, value in row.items() if name.startswith("microscope/") and value}
            if seen:
                found[int(row["step"])] = seen
    return found


def small(**network: Any) -> LanguageModel:
    return tiny_model({"layer": SHORT_CHUNKS, **network})


def fit_with_board(folder: Path, model: LanguageModel, microscope: Microscope, **options: Any) -> EventAccumulator:
    """Train with TensorBoard, and read what was written."""
    loggers = [CSVLogger(folder, name="", version=""), TensorBoardLogger(folder, name="", version="")]
    fit(folder, model, [microscope], logger=loggers, **options)
    board = EventAccumulator(str(folder))
    board.Reload()
    return board


def test_measures_the_first_batch_of_a_step(tmp_path: Path) -> None:
    fit(tmp_path, small(), [Microscope(every_n_steps=1)], max_steps=1, accumulate_grad_batches=2)
    model = small()
    probe = Probe(model.network)
    probe.install()
    model.token_losses(Samples().tokens[:2])
    probe.remove()
    expected = {
        f"microscope/{layer}/{part}/{name}": value
        for layer, parts in probe.results().items()
        for part, seen in parts.items()
        for name, value in seen.metrics().items()
    }
    assert "microscope/layers.2/memory/write_ratio_median" in expected
    logged_rows = rows(tmp_path)
    assert list(logged_rows) == [0]
    assert logged_rows[0].keys() == expected.keys() | {"microscope/alarms", "microscope/dead_parts"}
    for name, value in expected.items():
        assert float(logged_rows[0][name]) == pytest.approx(value), name
    assert logged(tmp_path, "microscope/alarms") == {0: 0.0}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "network",
    [
        {"layer": SHORT_CHUNKS | DROPOUT},
        {"layer": SHORT_CHUNKS | DROPOUT, "checkpoint_layers": True},
        {"layer": [SHORT_CHUNKS, TRANSFORMER]},
    ],
    ids=["gecko", "checkpointed", "hybrid"],
)
def test_training_is_bit_for_bit_the_same(network: dict[str, Any], precision: Any, tmp_path: Path) -> None:
    states, losses = [], []
    for every in (0, 2):
        model, folder = small(**network), tmp_path / str(every)
        torch.manual_seed(1)
        fit(folder, model, [Microscope(every_n_steps=every)], max_steps=5, precision=precision)
        states.append({**model.state_dict(), "random numbers": torch.get_rng_state()})
        losses.append(logged(folder, "loss/train"))
        assert list(rows(folder)) == ([] if every == 0 else [1, 3])
        assert not any(module._forward_hooks for module in model.modules())
    assert losses[0] == losses[1]
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value), name


def test_looks_at_nothing_between_measurements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probes: list[Probe] = []

    class Counted(Probe):
        def __init__(self, network: torch.nn.Module) -> None:
            super().__init__(network)
            probes.append(self)

    monkeypatch.setattr("gecko_lab.callbacks.microscope.Probe", Counted)
    fit(tmp_path, small(checkpoint_layers=True), [Microscope(every_n_steps=3)], max_steps=7, accumulate_grad_batches=2)
    assert [probe.calls for probe in probes] == [3 * 10, 3 * 10]  # of 3 layers; see test_probe


def test_removes_its_hooks_when_training_breaks(tmp_path: Path) -> None:
    class Breaks(LanguageModel):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            super().training_step(batch, batch_idx)
            raise RuntimeError("broken")

    model = Breaks(network=small().hparams["network"], bos_id=0)
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, model, [Microscope(every_n_steps=1)], max_steps=1)
    assert not any(module._forward_hooks for module in model.modules())


def deaden(model: LanguageModel) -> LanguageModel:
    """Plant a dead part in two layers: one at once, one that takes three measurements."""
    with torch.no_grad():
        model.network.layers[1].moving_average.delta[0, 0] = -60.0
        model.network.layers[2].to_value.weight.zero_()  # values are silu(0) = 0
        model.network.layers[2].to_value.requires_grad_(False)
    return model


def test_alarms_are_told_once_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    board = fit_with_board(tmp_path, deaden(small()), Microscope(every_n_steps=1), max_steps=5)
    told = [line for line in capsys.readouterr().err.splitlines() if "microscope" in line]
    assert len(told) == 2
    assert "at step 1: layers.1/moving_average: never forgets: |q| > 1 − 1e-06 in 1 of 256 states" in told[0]
    assert "at step 3: layers.2/memory: nothing is read in 3 measurements in a row" in told[1]
    assert logged(tmp_path, "microscope/alarms") == {0: 1, 1: 1, 2: 2, 3: 2, 4: 2}
    assert logged(tmp_path, "microscope/dead_parts") == {0: 1, 1: 1, 2: 2, 3: 2, 4: 2}
    texts = board.Tensors("microscope/alarms/text_summary")
    assert [event.step for event in texts] == [1, 3]
    assert b"layers.2/memory" in texts[1].tensor_proto.string_val[0]


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # the checkpoint is of another folder
def test_a_resumed_training_logs_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = {"limit_train_batches": 1}  # the same batch at each step: the loader does not remember where it stood
    whole = Microscope(every_n_steps=1)
    fit(tmp_path / "whole", deaden(small()), [whole], max_steps=6, **one)
    first = tmp_path / "first"
    fit(first, deaden(small()), [Microscope(every_n_steps=1)], max_steps=2, **one)
    capsys.readouterr()
    (checkpoint,) = (first / "checkpoints").glob("*step=2.ckpt")
    resumed = Microscope(every_n_steps=1)
    fit(tmp_path / "rest", deaden(small()), [resumed], max_steps=6, resume=checkpoint, **one)
    expected = {step: row for step, row in rows(tmp_path / "whole").items() if step >= 2}
    assert rows(tmp_path / "rest") == expected
    assert resumed.state_dict() == whole.state_dict()
    told = [line for line in capsys.readouterr().err.splitlines() if "microscope" in line]
    assert len(told) == 1  # that of the first two steps is not told again
    assert "at step 3: layers.2/memory" in told[0]


def test_figures_are_drawn_every_so_often_and_at_the_end(tmp_path: Path) -> None:
    board = fit_with_board(tmp_path, small(), Microscope(every_n_steps=2, draw_every_n_steps=4), max_steps=7)
    for name in ("half_life", "write_ratio", "attention_share"):
        images = board.Images(f"microscope/{name}")
        assert [image.step for image in images] == [4, 6], name
        assert images[0].width > 300
    other = fit_with_board(tmp_path / "none", small(), Microscope(every_n_steps=2, draw_every_n_steps=0), max_steps=4)
    assert not any("microscope" in tag for tag in other.Tags()["images"])
    assert "microscope/layers.0/memory/read_mass" in other.Tags()["scalars"]


def test_figures_of_a_network_without_memory_are_those_that_there_are(tmp_path: Path) -> None:
    network = {"layer": [SHORT_CHUNKS | {"memory": None}, TRANSFORMER]}
    board = fit_with_board(
        tmp_path, tiny_model(network), Microscope(every_n_steps=1, draw_every_n_steps=1), max_steps=1
    )
    assert [tag for tag in board.Tags()["images"] if "microscope" in tag] == ["microscope/half_life"]


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
def test_says_once_what_compiled_layers_hide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = small()
    for layer in model.network.layers:
        layer.compile(backend="eager", dynamic=False)
    fit(tmp_path, model, [Microscope(every_n_steps=1)], max_steps=3)
    told = [line for line in capsys.readouterr().err.splitlines() if "microscope" in line]
    assert len(told) == 1
    assert "of compiled layers (layers.0, layers.1, layers.2) it sees only moving average" in told[0]
    parts = {name.split("/")[2] for row in rows(tmp_path).values() for name in row if name.count("/") > 2}
    assert parts == {"moving_average", "timestep_norm"}
    assert list(rows(tmp_path)) == [0, 1, 2]


def test_only_the_main_process_measures() -> None:
    class Trainer:
        is_global_zero, global_step = False, 0

    microscope, model = Microscope(every_n_steps=1), small()
    trainer: Any = Trainer()
    microscope.on_train_batch_start(trainer, model, None, 0)
    assert not any(module._forward_hooks for module in model.modules())
    trainer.is_global_zero = True
    microscope.on_train_batch_start(trainer, model, None, 0)
    assert any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["every_n_steps", "draw_every_n_steps"])
def test_refuses_a_negative_interval(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"microscope\.{name}: .* got -1"):
        Microscope(**{name: -1})
