from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.dashboard.curves import POINTS, RunCurves
from gecko_lab.runs.metrics_file import METRICS_FILE
from gecko_lab.runs.metrics_log import MetricsLog

numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 6))
cells = st.one_of(st.none(), numbers, st.just(float("nan")), st.just(float("inf")))
rows = st.lists(st.tuples(st.integers(0, 3), cells, cells), max_size=30)


def written(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def as_dict(run: RunCurves) -> dict[str, list[tuple[int, str]]]:
    """Comparable, NaN with itself as well."""
    return {
        name: [(int(step), str(value)) for step, value in zip(curve.steps, curve.values, strict=True)]
        for name, curve in run.curves.items()
    }


@given(rows=rows, cuts=st.lists(st.integers(0, 2000), max_size=4), steps=st.sampled_from([1, 40, 5000]))
def test_run_curves_read_in_pieces_are_those_read_at_once(
    rows: list[tuple[int, float | None, float | None]], cuts: list[int], steps: int, tmp_path_factory
) -> None:
    folder = tmp_path_factory.mktemp("run")
    text, step = "step,loss,norm\n", 0
    for further, *values in rows:
        step += further
        text += f"{step},{','.join('' if value is None else str(value) for value in values)}\n"
    in_pieces, path = RunCurves(folder, steps), folder / METRICS_FILE
    ends = sorted({min(cut, len(text)) for cut in cuts} | {len(text)})
    for start, end in zip([0, *ends], ends, strict=False):
        written(path, text[start:end])
        in_pieces.update()
    at_once = RunCurves(folder, steps)
    at_once.update()
    assert as_dict(in_pieces) == as_dict(at_once)
    assert in_pieces.last_step == at_once.last_step == (step if rows else 0)
    for column, name in enumerate(("loss", "norm")):
        logged = {}
        at = 0
        for further, *values in rows:
            at += further
            if values[column] is not None:
                logged[at] = str(values[column])
        if len(logged) <= 1 or steps <= POINTS:
            assert dict(as_dict(at_once).get(name, [])) == logged


def test_run_curves_reads_what_the_log_writes_also_when_a_column_is_new(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    run = RunCurves(tmp_path, 100)
    assert not run.update()
    log.log_metrics({"loss": 3.0}, 0)
    log.save()
    assert run.update()
    log.log_metrics({"loss": float("nan"), "norm": 0.5}, 1)  # the file is replaced
    log.save()
    assert run.update()
    assert as_dict(run) == {"loss": [(1, "3.0"), (2, "nan")], "norm": [(2, "0.5")]}
    assert not run.update()


def test_run_curves_forgets_steps_that_are_taken_again(tmp_path: Path) -> None:
    run = RunCurves(tmp_path, 100)
    written(tmp_path / METRICS_FILE, "step,loss\n1,5\n2,4\n3,3\n")
    run.update()
    MetricsLog(tmp_path, last_step=1).save()
    written(tmp_path / METRICS_FILE, "2,4.5\n")
    run.update()
    assert as_dict(run) == {"loss": [(1, "5.0"), (2, "4.5")]}


def test_run_curves_keeps_the_last_of_every_part_of_a_long_run(tmp_path: Path) -> None:
    steps = 10 * POINTS
    written(tmp_path / METRICS_FILE, "step,loss\n" + "".join(f"{step},{step / 7}\n" for step in range(1, steps + 1)))
    run = RunCurves(tmp_path, steps)
    run.update()
    curve = run.curves["loss"]
    np.testing.assert_array_equal(curve.steps, np.arange(10, steps + 1, 10))
    np.testing.assert_array_equal(curve.values, curve.steps / 7)


def test_run_curves_of_what_is_no_table_are_none(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(b"\x00\xff\n\x00,\x01\n")
    run = RunCurves(tmp_path, 10)
    run.update()
    assert run.curves == {}
