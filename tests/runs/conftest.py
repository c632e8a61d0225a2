"""Trainings that several tests compare with; each test works on a copy."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.stopping import copy_of, fit, stopped


@pytest.fixture(scope="session")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text, cache and two runs of the same settings: `whole`, never stopped, and `half`, stopped after step 7."""
    folder = tmp_path_factory.mktemp("trainings")
    assert fit(folder, "whole") == 0
    stopped(folder, "half", 7)
    return folder


@pytest.fixture
def half(trainings: Path, tmp_path: Path) -> Path:
    """A copy of the run that was stopped; `fit(trainings, half)` goes on with it."""
    return copy_of(trainings / "half", tmp_path / "half")


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """What was said on stderr since the last call, without what Lightning logs; there is no traceback in it."""

    def since() -> str:
        text = capfd.readouterr().err
        assert "Traceback" not in text
        return "\n".join(line for line in text.splitlines() if line.startswith("gecko-lab: "))

    return since
