"""How long training waits for the loader: a few real optimiser steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from gecko_lab.bench.data_readers import OurReader
from gecko_lab.language_model import LanguageModel
from gecko_lab.runs.loops import SteppedFitLoop, install

CHUNK_SIZE = 128
"""Of the attention: on a few cores a longer one makes steps slower, and so the share of waiting smaller."""


def build_model(size: str) -> LanguageModel:
    """Gecko of a size; its network comes with training.

    Raises:
        ConfigurationError: there is no such size.
    """
    return LanguageModel(network={"size": size, "layer": {"chunk_size": CHUNK_SIZE}})


def train(
    model: LanguageModel, reader: OurReader, steps: int, tell: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Train on CPU, the training process loading its batches itself, and count the seconds that it waits for them.

    The wait for the very first batch is counted too.

    Args:
        model: from `build_model`; is trained.
        reader: gives the data.
        steps: of the optimiser.
        tell: hears which step runs next.

    Returns:
        `seconds` of all steps, `seconds_waited` among them, both `by_step`, and `waiting`, the share.
    """
    clock = _Clock(tell, steps)
    with _quiet():
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            limit_val_batches=0,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        install(trainer)
        with torch.random.fork_rng(devices=[]):
            trainer.fit(model, datamodule=reader.datamodule(0))
    seconds, waited = ([after - before for before, after in pairwise(values)] for values in (clock.times, clock.waits))
    return {
        "chunk_size": CHUNK_SIZE,
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": sum(seconds),
        "seconds_waited": sum(waited),
        "waiting": sum(waited) / sum(seconds),
        "by_step": {"seconds": seconds, "seconds_waited": waited},
    }


class _Clock(Callback):
    """Reads the time and the seconds waited so far, before the first step and after each."""

    def __init__(self, tell: Callable[[str], None], steps: int) -> None:
        self.times: list[float] = []
        self.waits: list[float] = []
        self._tell = tell
        self._steps = steps

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._read(trainer)

    def _read(self, trainer: Trainer) -> None:
        loop = trainer.fit_loop
        assert isinstance(loop, SteppedFitLoop)
        self.times.append(time.perf_counter())
        self.waits.append(loop.epoch_loop.seconds_waited)
        if len(self.times) <= self._steps:
            self._tell(f"training: step {len(self.times)} of {self._steps}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what Lightning tells about the machine and advises."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
