"""Training over steps that are not finite: what stays, what is recorded, when it stops and what it says."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from gecko_lab import LanguageModel
from gecko_lab.callbacks import Stability, TrainingDiverged
from gecko_lab.errors import ConfigurationError, UserError
from tests.callbacks.fits import BATCH_SIZE, fit, logged, tiny_model
from tests.test_nonfinite import NaNGradient, spoil

CHECKPOINT = "epoch=0-step={}.ckpt"
RESUMES = pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint", "ignore:Checkpoint directory .* exists and is not empty"
)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text(encoding="utf-8").splitlines()]


def states(folder: Path, step: int) -> dict[str, Any]:
    """The checkpoint after a step."""
    return torch.load(folder / "checkpoints" / CHECKPOINT.format(step), weights_only=True)


def equal(a: Any, b: Any) -> bool:
    """Whether nested values are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    return bool(a == b)


def break_loss(
    model: LanguageModel, broken: Callable[[int], bool], change: Callable[[Tensor], Tensor]
) -> LanguageModel:
    """Change the loss of the batches whose index is broken."""
    step = model.training_step

    def training_step(batch: Any, batch_idx: int) -> Tensor:
        loss = step(batch, batch_idx)
        return change(loss) if broken(batch_idx) else loss

    model.training_step = training_step
    return model


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "nan loss": lambda loss: loss * math.nan,
    "infinite loss": lambda loss: loss + math.inf,  # its gradient alone is finite
    "nan gradient": NaNGradient.apply,
    "overflow": lambda loss: loss * 1e38 * 1e3,
}


@pytest.mark.parametrize(
    ("change", "precision"), [*((change, "32-true") for change in CHANGES), ("nan gradient", "bf16-mixed")]
)
def test_stability_skips_a_step_and_changes_neither_weights_nor_moments(
    change: str, precision: str, tmp_path: Path
) -> None:
    model = break_loss(tiny_model(), lambda i: i == 2, CHANGES[change])
    fit(tmp_path, model, [Stability()], precision=precision)
    before, after, last = states(tmp_path, 2), states(tmp_path, 3), states(tmp_path, 4)
    assert equal(before["state_dict"], after["state_dict"])
    assert equal(before["optimizer_states"][0]["state"], after["optimizer_states"][0]["state"])
    assert not equal(after["state_dict"], last["state_dict"])
    assert all(torch.isfinite(value).all() for value in last["state_dict"].values())
    assert last["global_step"] == 4
    assert list(logged(tmp_path, "skipped_steps").values()) == [0, 0, 1, 1]
    (line,) = lines(tmp_path)
    finite_loss = change == "nan gradient"
    assert line["step"] == 3
    assert line["gradient_norm"] == "nan"
    (batch,) = line["batches"]
    assert (batch["rank"], batch["micro_batch"], batch["samples"], batch["sources"]) == (0, 0, [4, 5], [0, 1])
    assert isinstance(batch["loss"], float) == finite_loss
    assert not (tmp_path / "stability-report.json").exists()


def test_stability_changes_nothing_in_a_sound_training(tmp_path: Path) -> None:
    fit(tmp_path / "with", tiny_model(), [Stability()])
    fit(tmp_path / "without", tiny_model(), [])
    assert equal(states(tmp_path / "with", 4)["state_dict"], states(tmp_path / "without", 4)["state_dict"])
    assert logged(tmp_path / "with", "loss/train") == logged(tmp_path / "without", "loss/train")
    assert not (tmp_path / "with" / "skipped.jsonl").exists()
    assert set(logged(tmp_path / "with", "spike_score/loss").values()) == {0}
    assert set(logged(tmp_path / "with", "spike_score/gradient_norm").values()) == {0}


def test_stability_feeds_the_scores_with_loss_and_norm(tmp_path: Path) -> None:
    stability = Stability(window=20, threshold=2.0)  # judged after two values
    model = break_loss(tiny_model(gradient_clip=0), lambda i: i == 4, lambda loss: loss * 100)
    fit(tmp_path, model, [stability], max_steps=6)
    for name, metric in (("loss", "loss/train"), ("gradient_norm", "gradient_norm")):
        kept = stability.state_dict()["scores"][name]["last"]
        values = list(logged(tmp_path, metric).values())
        values[4] *= 100 if name == "loss" else 1
        assert kept == pytest.approx(values, rel=1e-5)
        assert list(logged(tmp_path, f"spike_score/{name}").values())[4] >= 20


def test_stability_records_every_micro_batch_of_an_accumulated_step(tmp_path: Path) -> None:
    model = break_loss(tiny_model(), lambda i: i == 4, CHANGES["nan loss"])
    fit(tmp_path, model, [Stability()], accumulate_grad_batches=3)
    (line,) = lines(tmp_path)
    assert line["step"] == 2
    assert [batch["samples"] for batch in line["batches"]] == [[6, 7], [8, 9], [10, 11]]
    assert [batch["micro_batch"] for batch in line["batches"]] == [0, 1, 2]
    assert line["batches"][1]["loss"] == "nan"
    for i in (0, 2):  # the loss of the batch, not its share of the step
        assert line["batches"][i]["loss"] == pytest.approx(math.log(31), rel=0.4)
    assert equal(states(tmp_path, 1)["state_dict"], states(tmp_path, 2)["state_dict"])


def test_stability_says_unknown_where_a_batch_does_not_say_its_samples(tmp_path: Path) -> None:
    class Bare(LanguageModel):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {"tokens": batch["tokens"]}

    model = Bare(network=tiny_model().hparams["network"], bos_id=0)
    break_loss(model, lambda i: i == 0, CHANGES["nan loss"])
    fit(tmp_path, model, [Stability()], max_steps=1)
    assert lines(tmp_path)[0]["batches"] == [{"rank": 0, "micro_batch": 0, "loss": "nan", "samples": "unknown"}]


@pytest.mark.parametrize("phase", ["forward", "backward"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stability_stops_after_steps_in_a_row_and_names_the_component(
    phase: str, accumulate: int, tmp_path: Path
) -> None:
    model = tiny_model()
    spoil(model.network.layers[1].memory, NaNGradient.apply if phase == "backward" else lambda x: x / 0)
    with pytest.raises(TrainingDiverged) as raised:
        fit(tmp_path, model, [Stability(patience=2)], accumulate_grad_batches=accumulate)
    message = str(raised.value)
    report_file = tmp_path / "stability-report.json"
    assert isinstance(raised.value, UserError)
    for part in ("up to 2 ", "network.layers.1.memory", "AdaptiveWorkingMemory", "layer 1", str(report_file), "lr"):
        assert part in message
    assert "\n" not in message
    report = json.loads(report_file.read_text(encoding="utf-8"))
    assert report["first_nonfinite"] == {
        "phase": phase,
        "module": "network.layers.1.memory",
        "module_class": "AdaptiveWorkingMemory",
        "component": "network.layers.1.memory",
        "component_class": "AdaptiveWorkingMemory",
        "layer": 1,
    }
    first = accumulate * BATCH_SIZE  # the second step's
    samples = [i for batch in report["batches"] for i in batch["samples"]]
    assert samples == list(range(first, 2 * first))
    assert (report["step"], report["skipped_in_a_row"], report["rank"]) == (2, 2, 0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert {path.name for path in tmp_path.iterdir() if path.suffix in (".json", ".jsonl", ".partial")} == {
        "skipped.jsonl",
        "stability-report.json",
    }


def test_stability_searches_with_the_random_numbers_of_the_step(tmp_path: Path) -> None:
    model = tiny_model()
    # A fault that comes with a third of all draws: only the same draws show it again.
    spoil(model.network.layers[2], lambda x: x / (torch.rand(()) > 1 / 3))
    with pytest.raises(TrainingDiverged, match=r"network\.layers\.2 \(GeckoLayer of layer 2\)"):
        fit(tmp_path, model, [Stability(patience=1)], max_steps=50)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_stability_searches_from_the_carried_state_of_the_step(accumulate: int, tmp_path: Path) -> None:
    class Continuing(LanguageModel):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {"tokens": batch["tokens"], "fresh": torch.zeros(len(batch["tokens"]), dtype=torch.bool)}

    model = Continuing(network=tiny_model().hparams["network"], bos_id=0)
    model.configure_model()
    norm = model.network.final_norm
    forward = norm.forward

    def breaking(x: Tensor, state: Any, segments: Any) -> Any:  # as soon as there is a state, which is then forgotten
        y, after = forward(x, state, segments)
        return (y if state is None else y / 0), after

    norm.forward = breaking
    with pytest.raises(TrainingDiverged, match=r"network\.final_norm"):
        fit(tmp_path, model, [Stability(patience=1)], accumulate_grad_batches=accumulate)
    assert model._carried.before(model.network, torch.zeros(2, 1), torch.zeros(2, 1)) is None


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("loss", "the first such value is in the loss of LanguageModel, outside its modules"),
        (
            "weight",
            r"a weight of network\.layers\.0 \(GeckoLayer of layer 0\), in network\.layers\.0\.to_value \(Linear\)",
        ),
        ("embedding", r"the gradient of a weight of network\.embedding \(Embedding\)"),
        ("elsewhere", "running the last one again gave only finite values"),
    ],
)
def test_stability_says_what_was_found(fault: str, words: str, tmp_path: Path) -> None:
    model: Any = tiny_model()
    if fault == "loss":
        break_loss(model, lambda i: True, CHANGES["infinite loss"])
    elif fault == "weight":
        model.network.layers[0].to_value.bias.data[0] = math.nan
    elif fault == "embedding":
        spoil(model.network.embedding, NaNGradient.apply)
    else:
        times = iter([True])
        break_loss(model, lambda i: next(times, False), CHANGES["nan loss"])
    with pytest.raises(TrainingDiverged, match=words):
        fit(tmp_path, model, [Stability(patience=1)])


@pytest.mark.parametrize(("option", "value"), [("patience", 0), ("window", 1)])
def test_stability_refuses_what_cannot_be(option: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"stability\.{option}: .* got {value}"):
        Stability(**{option: value})


def test_stability_counts_only_steps_in_a_row(tmp_path: Path) -> None:
    model = break_loss(tiny_model(), lambda i: i % 3 != 2, CHANGES["nan loss"])
    fit(tmp_path, model, [stability := Stability(patience=3)], max_steps=6)
    assert stability.skipped == 4
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 4, 5]


@RESUMES
def test_stability_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path: Path) -> None:
    def model() -> LanguageModel:
        return break_loss(tiny_model(), lambda i: i in (1, 3, 4), CHANGES["nan gradient"])

    whole, stopped = (Stability(patience=3, window=20) for _ in range(2))
    fit(tmp_path / "whole", model(), [whole], max_steps=6)
    fit(tmp_path / "stopped", model(), [Stability(patience=3, window=20)], max_steps=5)
    checkpoint = tmp_path / "stopped" / "checkpoints" / CHECKPOINT.format(3)
    fit(tmp_path / "stopped", model(), [stopped], max_steps=6, resume=checkpoint, logger=False)
    assert [line["step"] for line in lines(tmp_path / "stopped")] == [2, 4, 5]
    assert (stopped.skipped, stopped.in_a_row) == (whole.skipped, whole.in_a_row) == (3, 0)
    kept, expected = (one.state_dict()["scores"]["loss"] for one in (stopped, whole))
    assert kept["count"] == expected["count"] == 6
    assert kept["last"][:3] == expected["last"][:3]  # then this loader begins anew


@RESUMES
def test_stability_in_a_row_goes_on_over_a_checkpoint(tmp_path: Path) -> None:
    def model() -> LanguageModel:
        return break_loss(tiny_model(), lambda i: True, CHANGES["nan gradient"])

    fit(tmp_path, model(), [Stability(patience=3)], max_steps=2)
    checkpoint = tmp_path / "checkpoints" / CHECKPOINT.format(2)
    with pytest.raises(TrainingDiverged, match="3 in a row of the steps up to 3 "):
        fit(tmp_path, model(), [Stability(patience=3)], max_steps=5, resume=checkpoint, logger=False)


@pytest.mark.filterwarnings("ignore:It is recommended to use")
def test_stability_agrees_over_ranks_where_one_of_them_breaks(tmp_path: Path) -> None:
    ranks = {"strategy": "ddp_fork", "devices": 2, "use_distributed_sampler": False, "logger": False}
    model = tiny_model()
    spoil(model.network.layers[1].memory, lambda x: x * (math.nan if model.global_rank == 1 else 1))
    with pytest.raises(Exception, match=r"network\.layers\.1\.memory \(AdaptiveWorkingMemory of layer 1\)"):
        fit(tmp_path, model, [Stability(patience=2)], **ranks)
    report = json.loads((tmp_path / "stability-report.json").read_text(encoding="utf-8"))
    assert (report["rank"], report["first_nonfinite"]["module"]) == (1, "network.layers.1.memory")
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    for line, samples in zip(lines(tmp_path), ([0, 1], [2, 3]), strict=True):
        assert [(batch["rank"], batch["samples"]) for batch in line["batches"]] == [(0, samples), (1, samples)]
        assert isinstance(line["batches"][0]["loss"], float)
        assert line["batches"][1]["loss"] == "nan"


def test_stability_leaves_nothing_of_a_trial(tmp_path: Path) -> None:
    model = break_loss(tiny_model(), lambda i: True, CHANGES["nan loss"])
    with pytest.raises(TrainingDiverged) as raised:
        fit(tmp_path, model, [Stability(patience=1)], fast_dev_run=2, logger=False)
    assert "report" not in str(raised.value)
    assert not list(tmp_path.glob("*.json*"))


def scaled(folder: Path, model: LanguageModel, stability: Stability, scale: float, steps: int) -> L.Trainer:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))
    return fit(folder, model, [stability], plugins=plugin, precision=None, max_steps=steps)


def test_stability_does_not_count_the_search_for_the_loss_scale(tmp_path: Path) -> None:
    stability = Stability(patience=1)
    plugin: Any = scaled(tmp_path, tiny_model(), stability, 2.0**40, 3).precision_plugin
    assert plugin.scaler.get_scale() == 2.0**37
    assert stability.skipped == 0
    assert not (tmp_path / "skipped.jsonl").exists()


@pytest.mark.parametrize("change", ["nan loss", "nan gradient", "infinite loss"])
def test_stability_counts_what_no_loss_scale_mends(change: str, tmp_path: Path) -> None:
    stability = Stability(patience=9)
    model = break_loss(tiny_model(), lambda i: True, CHANGES[change])
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    scaled(tmp_path, model, stability, 4.0, 4)
    assert stability.skipped == (2 if change == "nan gradient" else 4)
    assert equal(dict(model.state_dict()), weights)


def test_stability_keeps_its_state_as_plain_values(tmp_path: Path) -> None:
    fit(tmp_path, tiny_model(), [stability := Stability()], max_steps=2)
    assert states(tmp_path, 2)["callbacks"]["Stability"] == stability.state_dict()
