"""How long training waits for the loader: a few real optimiser steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from gecko_lab.bench.data_corpus import Corpus
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
    model: LanguageModel,
    corpus: Corpus,
    *,
    batch_size: int,
    sequence_length: int,
    steps: int,
    tell: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Train on CPU, with the datamodule's defaults, and count the seconds spent on waiting.

    The wait for the very first batch is counted too.

    Args:
        model: from `build_model`; is trained.
        corpus: to train on.
        batch_size: sequences of a step.
        sequence_length: tokens of a sequence.
        steps: of the optimiser.
        tell: hears which step runs next.

    Returns:
        `seconds` of all steps, `seconds_waited` among them, and both `by_step`.
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
            trainer.fit(model, datamodule=OurReader(corpus, sequence_length, batch_size).datamodule(0))
    seconds, waited = clock.differences()
    return {
        "steps": steps,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": sum(seconds),
        "seconds_waited": sum(waited),
        "by_step": {"seconds": seconds, "seconds_waited": waited},
    }


class _Clock(Callback):
    """Reads the time and the seconds waited before the first step and after each."""

    def __init__(self, tell: Callable[[str], None], steps: int) -> None:
        self._tell = tell
        self._steps = steps
        self._seen: list[tuple[float, float]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._read(trainer)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._read(trainer)

    def _read(self, trainer: Trainer) -> None:
        loop = trainer.fit_loop
        assert isinstance(loop, SteppedFitLoop)
        self._seen.append((time.perf_counter(), loop.epoch_loop.seconds_waited))
        self._tell(f"training: step {min(len(self._seen), self._steps)} of {self._steps}")

    def differences(self) -> tuple[list[float], list[float]]:
        """Seconds of each step, and those of them that were waited."""
        times, waits = zip(*self._seen, strict=True)
        waits = (0.0, *waits[1:])  # the loader may have been asked before the first step began
        return tuple(  # type: ignore[return-value]
            [after - before for before, after in zip(values, values[1:], strict=False)] for values in (times, waits)
        )


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
