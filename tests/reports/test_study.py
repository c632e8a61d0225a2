"""What is found below the paths that a user names."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.reports.run_data import read_metrics_table, read_run
from gecko_lab.reports.study import Study, read_studies
from gecko_lab.runs.metrics_file import read_metrics
from tests.fake_runs import write_grid, write_run


def studies(*paths: Path, base: str | None = None, metric: str | None = None) -> list[Study]:
    return read_studies(paths, base=base, metric=metric, tell=lambda text: None)


def test_each_run_is_found_once(tmp_path: Path) -> None:
    path = write_grid(tmp_path / "deep" / "g", num_variants=2, num_seeds=2, num_rows=4)
    write_run(tmp_path / "deep" / "loose", num_rows=4)
    (study, loose) = studies(tmp_path, tmp_path / "deep", path, tmp_path / "deep" / "g" / "variant-0" / "seed-0")
    assert [variant.name for variant in study.variants] == ["memory-base", "memory-level-1"]
    assert len(list(study.runs)) == 4
    assert [run.folder.name for _, run in loose.runs] == ["loose"]
    assert study.base == "memory-base"


def test_loose_runs_are_grouped_by_settings_without_seeds(tmp_path: Path) -> None:
    for memory in ("a", "b"):
        for seed in range(3):
            write_run(tmp_path / f"{memory}-{seed}", seed=seed, num_rows=4, overrides={"model.network.memory": memory})
    (study,) = studies(tmp_path)
    assert [(variant.name, [run.seed for run in variant.runs]) for variant in study.variants] == [
        ("memory=a", [0, 1, 2]),
        ("memory=b", [0, 1, 2]),
    ]
    assert (study.metric, study.mode) == ("loss/validation", "min")


def test_a_run_made_twice_counts_once(tmp_path: Path) -> None:
    write_run(tmp_path / "x", num_rows=4)
    write_run(tmp_path / "x-2", num_rows=4, state="interrupted")
    (study,) = studies(tmp_path)
    assert [run.folder.name for _, run in study.runs] == ["x"], "the finished one"
    assert [run.folder.name for run in study.duplicates] == ["x-2"]


def test_a_damaged_run_is_shown_not_raised(tmp_path: Path) -> None:
    write_run(tmp_path / "x", num_rows=4)
    write_run(tmp_path / "y", num_rows=4)
    (tmp_path / "y" / "run.json").write_text("{", encoding="utf-8")
    (tmp_path / "x" / "config.yaml").write_text("a: [", encoding="utf-8")
    (study,) = studies(tmp_path)
    assert {run.state for _, run in study.runs} == {"finished", "unreadable"}


def test_settings_leave_out_seeds_and_what_changes_nothing(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / str(seed), seed=seed, num_rows=4)) for seed in range(2)]
    assert runs[0].settings == runs[1].settings
    content = yaml.safe_load((tmp_path / "0" / "config.yaml").read_text(encoding="utf-8"))
    content["trainer"]["enable_progress_bar"] = False
    (tmp_path / "0" / "config.yaml").write_text(json.dumps(content), encoding="utf-8")
    assert read_run(tmp_path / "0").settings == runs[1].settings


@given(cut=st.integers(0, 2000), extra=st.sampled_from([b"", b"12,0.5", b'"', b"\xff\xfe", b"7,1,1,1"]))
def test_read_metrics_table_reads_whole_rows_as_the_log_does(
    tmp_path_factory: pytest.TempPathFactory, cut: int, extra: bytes
) -> None:
    folder = tmp_path_factory.mktemp("torn")
    content = b"step,loss/train,other,loss/validation\n" + b"".join(
        f"{i},{3 / (i + 1)!r},9,".encode() + (b"" if i % 3 else b"nan" if i == 6 else repr(1 / (i + 1)).encode())
        for i in range(12)
    )
    content = (content[: cut % (len(content) + 1)] if cut else content) + extra
    (folder / "metrics.csv").write_bytes(content)
    rows = read_metrics(folder)
    try:
        table = read_metrics_table(folder / "metrics.csv")
    except ValueError:
        assert not rows
        return
    assert table["step"].tolist() == [int(row["step"]) for row in rows]
    run = read_run(folder)
    run.metrics = table
    for name in ("loss/train", "loss/validation"):
        expected = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
        steps, values = run.series(name)
        np.testing.assert_array_equal(np.stack([steps, values], axis=1), np.array(expected).reshape(-1, 2))
