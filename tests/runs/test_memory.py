"""What a training does with memory that it frees."""

from pathlib import Path

import pytest

from gecko_lab import training_command
from tests.runs.stopping import fit


def test_fit_on_a_cpu_keeps_freed_memory(trainings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(training_command, "keep_freed_memory", lambda: asked.append(True))
    assert fit(trainings, tmp_path / "run", trainer__accelerator="cpu") == 0
    assert asked == [True]
