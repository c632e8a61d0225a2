"""Tiny trainings through the command line: little text, little network, everything in one folder."""

import json
import logging
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401 — makes the loggers that are silenced below
import numpy as np

from gecko_lab.__main__ import main

for name in ("lightning.pytorch", "lightning.fabric"):  # their handlers write to a stream that pytest has closed
    logging.getLogger(name).setLevel(logging.WARNING)

SEQUENCE_LENGTH = 32
BATCH_SIZE = 4
TOKENS_PER_BATCH = SEQUENCE_LENGTH * BATCH_SIZE
LAYER = {"num_heads": 2, "z_dim": 8, "value_dim": 16, "hidden_dim": 16, "chunk_size": 8}
NETWORK: dict[str, Any] = {"size": "tiny", "num_layers": 1, "model_dim": 16, "layer": LAYER}


def write_text(folder: Path, documents: int = 80) -> Path:
    """Documents of words that repeat, so that a few steps lower the loss: about 8 kB."""
    draw = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "läuft"]
    path = folder / "text.jsonl"
    lines = [json.dumps({"text": f"{i} " + " ".join(draw.choice(words, 16))}) for i in range(documents)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def arguments(folder: Path, **options: Any) -> list[str]:
    """Flags of a tiny training with text and cache in `folder`; `trainer__max_steps=3` adds or replaces an option."""
    flags = {
        "data.sources": str(folder / "text.jsonl"),
        "data.cache_folder": str(folder / "cache"),
        "data.sequence_length": SEQUENCE_LENGTH,
        "data.batch_size": BATCH_SIZE,
        "data.validation_fraction": 0.2,
        "data.progress": False,
        "model.network": NETWORK,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": False,
        "trainer.enable_model_summary": False,
        "trainer.log_every_n_steps": 1,
        "text_sample.num_tokens": 4,
    } | {name.replace("__", "."): value for name, value in options.items()}
    if not (folder / "text.jsonl").exists():
        write_text(folder)
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in flags.items()]


def run_tiny(verb: str, folder: Path, run: str, *more: str, **options: Any) -> Path:
    """Run a verb in this process; returns the run's folder."""
    path = folder / run
    assert main([verb, "--run", str(path), *arguments(folder, **options), *more]) == 0
    return path
