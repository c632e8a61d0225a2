"""Rows of `metrics.csv` are kept over restarts, none twice."""

from pathlib import Path

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gecko_lab.runs.metrics_file import read_metrics
from gecko_lab.runs.metrics_log import MetricsLog

NAMES = st.sampled_from(["loss", "loss/validation", "a,b", 'quote"d', "läuft"])
ROWS = st.lists(st.dictionaries(NAMES, st.floats(allow_nan=False), min_size=1, max_size=3), min_size=1, max_size=8)


def log_steps(folder: Path, rows: list[dict[str, float]], last_step: int | None, *, save_every: int = 1) -> None:
    """Log row i at step i + 1, those after `last_step`."""
    log = MetricsLog(folder, last_step)
    for step, row in list(enumerate(rows))[last_step or 0 :]:
        log.log_metrics(row, step)
        if (step + 1) % save_every == 0:
            log.save()
    log.finalize("success")


def as_read(rows: list[dict[str, float]]) -> list[dict[str, str]]:
    return [{"step": str(number + 1), **{k: str(v) for k, v in row.items()}} for number, row in enumerate(rows)]


def without_blanks(folder: Path) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if value} for row in read_metrics(folder)]


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(rows=ROWS, save_every=st.integers(1, 3), data=st.data())
def test_rows_are_those_that_were_logged_wherever_it_was_stopped(
    tmp_path: Path, rows: list[dict[str, float]], save_every: int, data: st.DataObject
) -> None:
    log_steps(tmp_path, rows, None, save_every=save_every)
    assert without_blanks(tmp_path) == as_read(rows)
    path = tmp_path / "metrics.csv"
    content = path.read_bytes()
    kept = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:kept])  # a kill tears the file anywhere behind the checkpoint's rows
    whole = len(read_metrics(tmp_path))
    checkpoint = data.draw(st.integers(0, whole))
    log_steps(tmp_path, rows, checkpoint)
    assert without_blanks(tmp_path) == as_read(rows)


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    log_steps(tmp_path, [{"a": 1.0}], None)
    log_steps(tmp_path, [{"b": 2.0}], None)
    assert read_metrics(tmp_path) == [{"step": "1", "b": "2.0"}]
    assert read_metrics(tmp_path / "nowhere") == []


def test_tensors_are_numbers(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, first_step=0)
    log.log_metrics({"a": torch.tensor(1.5)}, 3)
    log.save()
    assert read_metrics(tmp_path) == [{"step": "3", "a": "1.5"}]
