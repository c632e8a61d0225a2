"""The loss against the position, drawn and kept."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning import Trainer

from gecko_lab.callbacks import LossByPosition
from gecko_lab.callbacks.loss_by_position import binned
from gecko_lab.reports.position_losses import FILE_NAME, read_position_losses
from gecko_lab.runs.metrics_file import read_metrics
from tests.callbacks.fits import tiny_model
from tests.runs.stopping import at_boundary, copy_of, fit


@given(length=st.integers(1, 300), num_bins=st.integers(1, 80), seed=st.integers(0, 99))
def test_binned_covers_each_position_once(length: int, num_bins: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    counts = torch.randint(1, 5, (length,), generator=draw).double()
    sums = torch.stack([counts * torch.rand(length, generator=draw).double(), counts])
    curve = binned(sums, num_bins)
    positions = [p for first, last in curve["positions"] for p in range(first, last + 1)]
    assert positions == list(range(1, length + 1))
    assert len(curve["losses"]) == len(curve["positions"]) <= num_bins
    in_bin = [counts[first - 1 : last].sum().item() for first, last in curve["positions"]]
    total = sum(loss * count for loss, count in zip(curve["losses"], in_bin, strict=True))
    assert total / counts.sum().item() == pytest.approx(curve["loss"], rel=1e-12)


def test_binned_leaves_out_positions_that_nothing_counts() -> None:
    curve = binned(torch.tensor([[1.0, 0.0, 6.0], [1.0, 0.0, 2.0]]).double(), 64)
    assert curve == {"loss": 7 / 3, "positions": [[1, 1], [3, 3]], "losses": [1.0, 3.0]}


def test_masked_targets_do_not_count(tmp_path: Path) -> None:
    callback, trainer, model = LossByPosition(), Trainer(logger=False, accelerator="cpu"), tiny_model()
    losses = torch.tensor([[1.0, float("nan")], [3.0, 5.0]])
    batch = {"mask": torch.tensor([[True, False], [True, True]])}
    callback.on_validation_batch_end(trainer, model, losses, batch, 0)
    callback.on_validation_batch_end(trainer, model, None, batch, 1)
    assert callback._sums is not None
    assert callback._sums.tolist() == [[4.0, 5.0], [2.0, 1.0]]


def test_file_holds_last_and_best_and_goes_on_exactly(tmp_path: Path) -> None:
    """The run is killed after a validation that no checkpoint knows of, and goes on from before it."""

    def look(trainer: Trainer) -> None:
        if trainer.global_step == 7:
            copy_of(tmp_path / "whole", tmp_path / "killed")

    with at_boundary(look):
        assert fit(tmp_path, "whole", checkpoint__keep_best=0) == 0
    killed = read_position_losses(tmp_path / "killed")
    assert killed is not None
    assert killed["last"]["step"] == 6
    seen: list[bool] = []
    with at_boundary(lambda trainer: seen.append((tmp_path / "killed" / FILE_NAME).exists())):
        assert fit(tmp_path, "killed", checkpoint__keep_best=0) == 0
    assert seen[0] is False, "it goes on from step 4, before the first validation"
    texts = [(tmp_path / run / FILE_NAME).read_text(encoding="utf-8") for run in ("whole", "killed")]
    assert texts[0] == texts[1]
    content = read_position_losses(tmp_path / "whole")
    assert content is not None
    assert content["last"]["step"] == 12
    assert content["best"]["loss"] <= content["last"]["loss"]
    logged = [row["loss/validation"] for row in read_metrics(tmp_path / "whole") if row.get("loss/validation")]
    assert content["last"]["loss"] == pytest.approx(float(logged[-1]), rel=1e-6)


@pytest.mark.parametrize("losses", [[2.0, float("nan"), 1.5], [float("nan"), 3.0, float("nan")], [float("nan")]])
def test_best_is_a_number_where_there_was_one(losses: list[float]) -> None:
    callback, trainer, model = LossByPosition(), Trainer(logger=False, accelerator="cpu"), tiny_model()
    trainer.state.fn = "fit"  # type: ignore[assignment]
    callback._write = lambda trainer: None  # type: ignore[method-assign]
    for loss in losses:
        callback.on_validation_epoch_start(trainer, model)
        callback.on_validation_batch_end(trainer, model, torch.full((1, 4), loss), {}, 0)
        callback.on_validation_epoch_end(trainer, model)
    numbers = [loss for loss in losses if loss == loss]
    best = callback.curves["best"]["loss"]
    assert best == min(numbers) if numbers else best != best


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"format": "x"}', json.dumps({"format": "gecko-lab-loss-by-position", "format_version": 1})],
)
def test_read_position_losses_refuses_what_is_not_whole(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE_NAME).write_text(content, encoding="utf-8")
    assert read_position_losses(tmp_path) is None
    assert read_position_losses(tmp_path / "nowhere") is None
