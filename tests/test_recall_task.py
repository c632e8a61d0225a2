"""A network trained and scored on synthetic tasks through Lightning's trainer."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab import RecallTask
from gecko_lab.data.recall import RecallDataModule
from gecko_lab.data.synthetic import KeyValueOverwrites, SelectiveCopying, SyntheticTask
from gecko_lab.errors import ConfigurationError
from gecko_lab.optimizer import OptimizerSettings
from tests.training import NETWORK

TASK = KeyValueOverwrites(length=60, num_keys=4, num_values=3, num_writes=6, num_reads=3)
ECHO = SelectiveCopying(length=2, num_data_tokens=1, vocab_size=4)  # repeat the token before the last


def data_of(task: SyntheticTask = TASK, **options: Any) -> RecallDataModule:
    return RecallDataModule(**({"task": task, "batch_size": 8, "num_validation_samples": 20} | options))


def model_of(**options: Any) -> RecallTask:
    torch.manual_seed(0)
    return RecallTask(network=NETWORK, optimizer=OptimizerSettings(lr=0.02, schedule="constant"), **options)


def trainer_of(folder: Path, steps: int, **options: Any) -> L.Trainer:
    silent = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    return L.Trainer(
        **(
            {"accelerator": "cpu", "max_steps": steps, "default_root_dir": folder, "limit_val_batches": 0}
            | silent
            | options
        )
    )


class Recorder(L.Callback):
    """Keeps the losses of training and what validation steps return."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.outputs: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *rest: Any) -> None:
        self.outputs.append(outputs)


def test_training_ends_once_every_answer_is_right(tmp_path: Path) -> None:
    model = model_of(stop_at_accuracy=1.0)
    trainer = trainer_of(tmp_path, 200, limit_val_batches=1.0, val_check_interval=10, check_val_every_n_epoch=None)
    trainer.fit(model, datamodule=data_of(ECHO))
    assert trainer.callback_metrics["accuracy/validation"] == 1.0
    assert trainer.global_step < 200
    assert trainer.global_step % 10 == 0


@pytest.mark.parametrize("stage", ["validation", "test"])
@pytest.mark.parametrize("loss_on", ["answers", "all"])
def test_scores_are_those_of_whole_logits(loss_on: Any, stage: str, tmp_path: Path) -> None:
    model, data, recorder = model_of(loss_on=loss_on), data_of(num_test_samples=20), Recorder()
    trainer = trainer_of(tmp_path, 1, limit_val_batches=1.0, callbacks=[recorder])
    (trainer.validate if stage == "validation" else trainer.test)(model, datamodule=data, verbose=False)
    nats, right, exact, by_distance = [], [], [], {}
    loader: Any = data.val_dataloader() if stage == "validation" else data.test_dataloader()
    for batch in loader:
        inputs, targets = batch["tokens"][:, :-1], batch["tokens"][:, 1:]
        with torch.no_grad():
            logits, _ = model.eval()(inputs)
        losses = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        nats.append(losses[batch["answers"]] if loss_on == "answers" else losses.flatten())
        hits = logits.argmax(dim=-1) == targets
        right.append(hits[batch["answers"]])
        exact.append(torch.stack([row[mask].all() for row, mask in zip(hits, batch["answers"], strict=True)]))
        for distance, hit in zip(batch["distances"][batch["answers"]].tolist(), right[-1].tolist(), strict=True):
            by_distance.setdefault(distance.bit_length(), []).append(float(hit))
    expected = {
        f"loss/{stage}": torch.cat(nats).mean().item(),
        f"accuracy/{stage}": torch.cat(right).float().mean().item(),
        f"exact_match/{stage}": torch.cat(exact).float().mean().item(),
    }
    for bits, hits_of_bin in by_distance.items():
        name = f"accuracy/{stage}/distance_{1 << (bits - 1):07}-{(1 << bits) - 1:07}"
        expected[name] = sum(hits_of_bin) / len(hits_of_bin)
    assert len(torch.cat(right)) == 20 * TASK.num_answers
    assert {name: value.item() for name, value in trainer.callback_metrics.items()} == pytest.approx(expected, rel=1e-5)
    if stage == "validation":
        shapes = [None if output is None else list(output.shape) for output in recorder.outputs]
        assert shapes == ([None] * 3 if loss_on == "answers" else [[8, 60], [8, 60], [4, 60]])


def test_answers_alone_decide_the_gradient(tmp_path: Path) -> None:
    model, data = model_of(), data_of()
    trainer_of(tmp_path, 1).fit(model, datamodule=data)  # builds the network
    batch = next(iter(data.train_dataloader()))
    model.log = lambda *arguments, **options: None  # type: ignore[method-assign, assignment]
    for targets, equal in (("answers", False), ("others", True)):
        tokens = batch["tokens"].clone()
        # The last target is read by no input, so that changing it changes the loss through the target alone.
        changed = batch["answers"][:, -1] if targets == "answers" else ~batch["answers"][:, -1]
        tokens[changed, -1] = (tokens[changed, -1] + 1) % TASK.vocab_size
        loss, other = model.training_step(batch, 0), model.training_step({**batch, "tokens": tokens}, 0)
        assert changed.any()
        assert torch.equal(loss, other) is equal, targets


def test_predictions_are_the_likeliest_tokens(tmp_path: Path) -> None:
    model, data = model_of(), data_of(num_test_samples=8)
    (batch,) = trainer_of(tmp_path, 1).predict(model, datamodule=data) or []
    assert isinstance(batch, dict)
    with torch.no_grad():
        logits, _ = model.eval()(batch["tokens"][:, :-1])
    expected = torch.where(batch["answers"], logits.argmax(dim=-1), -1)
    assert torch.equal(batch["predictions"], expected)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_resumed_from_a_checkpoint_is_that_of_one_never_stopped(num_workers: int, tmp_path: Path) -> None:
    def fit(steps: int, checkpoint: Path | None = None) -> tuple[list[float], dict[str, Tensor]]:
        recorder, model = Recorder(), model_of()
        trainer = trainer_of(tmp_path, steps, callbacks=[recorder])
        data = data_of(samples_per_epoch=32, num_workers=num_workers)  # a pass of 4 steps
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return recorder.losses, model.state_dict()

    whole, expected = fit(7)
    before, _ = fit(3)
    after, weights = fit(7, tmp_path / "last.ckpt")
    assert [*before, *after] == whole
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_load_from_checkpoint_keeps_the_options(tmp_path: Path) -> None:
    model = model_of(loss_on="all", stop_at_accuracy=0.9)
    trainer = trainer_of(tmp_path, 1)
    trainer.fit(model, datamodule=data_of())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = RecallTask.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert (again.loss_on, again.stop_at_accuracy) == ("all", 0.9)
    assert again.network.vocab_size == TASK.vocab_size
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize("accuracy", [0.0, -1.0, 1.5])
def test_recall_task_refuses_an_accuracy_that_cannot_be(accuracy: float) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.stop_at_accuracy"):
        model_of(stop_at_accuracy=accuracy)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")  # fresh processes take a minute
def test_two_ranks_train_and_score_as_one(tmp_path: Path) -> None:
    metrics = []
    for devices in (1, 2):
        trainer = trainer_of(tmp_path, 2, devices=devices, strategy="ddp_fork" if devices > 1 else "auto", max_epochs=1)
        trainer.limit_val_batches, trainer.limit_train_batches = 1.0, 2
        trainer.fit(model_of(), datamodule=data_of(batch_size=8 // devices))
        metrics.append({name: value.item() for name, value in trainer.callback_metrics.items() if name != "loss/train"})
    assert "exact_match/validation" in metrics[0]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-4)
