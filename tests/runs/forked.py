"""Trains in a process that was forked from one that has imported everything."""

import os
from collections.abc import Mapping
from pathlib import Path

import gecko_lab.language_model
import gecko_lab.training_command  # noqa: F401 — imported before the fork
from gecko_lab.__main__ import main


def train(words: list[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run the command line, with its output in a file.

    Args:
        words: of `gecko-lab`.
        log: the file.
        environment: variables more; a fork server has those of the moment at which it was started.
    """
    os.environ.update(environment or {})
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    raise SystemExit(main(words))
