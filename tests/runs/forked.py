"""Trains in a process that was forked from one that has imported everything."""

import os
from pathlib import Path

import gecko_lab.language_model
import gecko_lab.training_command  # noqa: F401 — imported before the fork
from gecko_lab.__main__ import main


def train(words: list[str], log: Path) -> None:
    """Run the command line, with its output in a file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    raise SystemExit(main(words))
