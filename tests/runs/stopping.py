"""Runs that are stopped at a chosen moment in this process, and copies of a run as a kill would have left it."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from gecko_lab.__main__ import main
from gecko_lab.runs.checkpoints import Checkpoints
from tests.training import LAYER, NETWORK, arguments

OPTIONS: dict[str, Any] = {
    # dropout, so that random numbers matter
    "model__network": {**NETWORK, "dropout": 0.1, "layer": LAYER},
    "model__optimizer__lr": 0.01,
    "trainer__max_steps": 12,
    "trainer__val_check_interval": 6,
    "trainer__limit_val_batches": 3,
    "checkpoint__every": "4 steps",
}


def fit(folder: Path, run: Path | str, *more: str, **options: Any) -> int:
    """The exit code of a training in this process."""
    return main(["fit", "--run", str(folder / run), *arguments(folder, **OPTIONS | options), *more])


@contextmanager
def at_boundary(act: Callable[[Trainer], None]) -> Iterator[None]:
    """Do something between two steps, before a checkpoint might be written."""
    with pytest.MonkeyPatch.context() as patch:
        given = Checkpoints._at_boundary

        def boundary(self: Checkpoints, trainer: Trainer) -> None:
            act(trainer)
            given(self, trainer)

        patch.setattr(Checkpoints, "_at_boundary", boundary)
        yield


@contextmanager
def stopped_after(step: int, signum: int = signal.SIGTERM) -> Iterator[None]:
    """Let a signal come as this step ends."""
    with at_boundary(lambda trainer: os.kill(os.getpid(), signum) if trainer.global_step == step else None):
        yield


def stopped(folder: Path, run: str, step: int, **options: Any) -> Path:
    """A run that was stopped after a step."""
    with stopped_after(step):
        assert fit(folder, run, **options) == 128 + signal.SIGTERM
    return folder / run


def copy_of(run: Path, place: Path) -> Path:
    """A run's folder as it is now, links as links: what is left if its process is killed at this moment."""
    return Path(shutil.copytree(run, place, symlinks=True))


def contents(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder, links by where they point; the lock is not content."""
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if (path.is_symlink() or path.is_file()) and path.name != ".lock"
    }
