from pathlib import Path

import pytest

from tests.fake_runs import write_grid
from tests.reports.pages import make

HOSTILE = '<script>alert("1")</script>|$x_1$ & 100% {\\end}'


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of three variants and three seeds, all finished, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    write_grid(folder, num_seeds=3, num_rows=30)
    make(folder)
    return folder


@pytest.fixture(scope="session")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid with a run of every bad kind, differing commits and a hostile name, with its report."""
    folder = tmp_path_factory.mktemp("runs") / "troubled"
    write_grid(
        folder,
        num_variants=4,
        num_seeds=4,
        num_rows=30,
        states={(1, 2): "failed", (2, 0): "interrupted", (2, 1): "nan", (2, 3): "missing", (3, 0): "running"},
        commits={(3, 1): "deadbeef0000+"},
        names={3: HOSTILE},
    )
    (folder / "variant-1" / "seed-2.log.txt").write_text("one\nTraceback <last>\nout of memory\n", encoding="utf-8")
    make(folder)
    return folder
