"""One dashboard that all tests look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dashboard.serving import Dashboard, served
from tests.fake_runs import write_grid


@pytest.fixture(scope="session")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of three variants, one run of which has failed."""
    folder = tmp_path_factory.mktemp("grids") / "ablate"
    return write_grid(folder, states={(2, 1): "failed"}, question="Does the memory help?").parent


@pytest.fixture(scope="session")
def dashboard(grid: Path) -> Iterator[Dashboard]:
    """That grid's, with everything loaded."""
    with served(str(grid)) as running:
        running.wait_for(lambda: "report/1_results" in running.get("data/plugin/text/tags").get("report", []))
        running.wait_for(lambda: len(running.get("data/plugin/scalars/tags")) == 12)
        yield running
