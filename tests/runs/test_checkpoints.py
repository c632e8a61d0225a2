"""When checkpoints are written, and which are kept."""

import math
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.errors import ConfigurationError
from gecko_lab.language_model import LanguageModel
from gecko_lab.runs.checkpoint_folder import CheckpointFolder
from gecko_lab.runs.checkpoints import Checkpoints
from tests.runs.comparison import checkpoint
from tests.runs.stopping import at_boundary, fit
from tests.training import TOKENS_PER_BATCH

QUICK = {"trainer__limit_val_batches": 0}


def steps(run: Path) -> list[int]:
    return CheckpointFolder(run / "checkpoints").steps()


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (5, [5, 10, 12]),
        ("5 steps", [5, 10, 12]),
        (f"{5 * TOKENS_PER_BATCH} tokens", [5, 10, 12]),
        (f"{int(2.5 * TOKENS_PER_BATCH)} tokens", [3, 5, 8, 10, 12]),
        ("5 minutes", [5, 10, 12]),
        (["7 steps", "5 minutes"], [5, 7, 12]),
        (None, [12]),
    ],
    ids=str,
)
def test_every(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: Any, expected: list[int]
) -> None:
    """A step takes a minute."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)

    def tick(trainer: Any) -> None:
        clock.now += 60

    with at_boundary(tick):
        assert fit(trainings, tmp_path / "run", checkpoint__every=every, checkpoint__keep_last=100, **QUICK) == 0
    assert steps(tmp_path / "run") == expected


@pytest.mark.parametrize(
    ("options", "kept", "best"),
    [
        ({}, [6, 11, 12], 6),
        ({"checkpoint__keep_last": 1}, [6, 12], 6),
        ({"checkpoint__mode": "max", "checkpoint__keep_best": 2, "checkpoint__keep_last": 1}, [3, 9, 12], 3),
        ({"checkpoint__keep_best": 0}, [11, 12], None),
    ],
    ids=str,
)
def test_which_are_kept(
    trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any, kept: list[int], best: int | None
) -> None:
    losses, given = {0: 0.0, 3: 3.0, 6: 1.0, 9: 2.0, 12: math.nan}, LanguageModel.log

    def log(self: LanguageModel, name: str, value: Any, *arguments: Any, **named: Any) -> None:
        if name == "loss/validation":
            value = value * 0 + losses[self.trainer.global_step]
        given(self, name, value, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "log", log)
        patch.setattr(
            LanguageModel,
            "log_dict",
            lambda self, values, **named: [log(self, k, v, **named) for k, v in values.items()],
        )
        options = {"trainer__val_check_interval": 3, "checkpoint__every": 1, **options}
        assert fit(trainings, tmp_path / "run", **options) == 0
    folder = tmp_path / "run" / "checkpoints"
    assert steps(tmp_path / "run") == kept
    assert (folder / "last.ckpt").resolve().name == "step-00000012.ckpt"
    assert (folder / "best.ckpt").is_symlink() == (best is not None)
    if best is not None:
        assert (folder / "best.ckpt").resolve().name == f"step-{best:08}.ckpt"
    sums = [path.name for path in folder.glob("*.sha256")]
    assert len(sums) == len(kept)
    assert subprocess.run(["sha256sum", "--check", "--quiet", *sums], cwd=folder).returncode == 0


@given(
    values=st.lists(st.floats(allow_infinity=True) | st.integers(0, 3).map(float), max_size=12),
    keep=st.integers(1, 4),
    mode=st.sampled_from(["min", "max"]),
)
def test_the_best_are_the_best_and_the_first_of_equals(values: list[float], keep: int, mode: Any) -> None:
    checkpoints = Checkpoints(keep_best=keep, mode=mode)
    for step, value in enumerate(values):
        checkpoints._validated = value
        assert checkpoints._is_among_best(step) == ((value, step) in checkpoints.best)
        restored = Checkpoints(keep_best=keep, mode=mode)  # a restart at any moment forgets nothing
        restored.load_state_dict(checkpoints.state_dict())
        checkpoints = restored
    sign = 1 if mode == "min" else -1
    ranked = sorted((sign * value, step) for step, value in enumerate(values) if not math.isnan(value))
    assert checkpoints.best == [(sign * value, step) for value, step in ranked[:keep]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "checkpoint.every: an interval must be longer than nothing, got 0"),
        ({"every": [5, "0 minutes"]}, "checkpoint.every: an interval must be longer than nothing"),
        ({"every": "often"}, "checkpoint.every: expected steps, tokens or minutes"),
        ({"keep_last": 0}, "checkpoint.keep_last: must be at least 1, got 0"),
        ({"keep_best": -1}, "checkpoint.keep_best: must be at least 0, got -1"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Checkpoints(**options)


def test_an_unknown_metric_is_told_with_the_known(trainings: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    assert fit(trainings, tmp_path / "run", checkpoint__monitor="loss") == 2
    message = said()
    assert "checkpoint.monitor: validation logs no 'loss'; it logs" in message
    assert "loss/validation" in message
    assert message.count("\n") == 0


def test_a_trial_run_leaves_nothing(trainings: Path, tmp_path: Path) -> None:
    assert fit(trainings, tmp_path / "run", trainer__fast_dev_run=1) == 0
    assert not (tmp_path / "run").exists()


def test_checkpoint_holds_plain_values(trainings: Path) -> None:
    content = checkpoint(trainings / "whole")
    assert content.keys() >= {"state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "random_states"}
    assert content["TextDataModule"] == {"position": 48}
    assert content["random_states"].shape[0] == 1
