"""`gecko-lab report` from the command line to its files."""

import json
import statistics
from pathlib import Path

import pandas as pd
import pytest

from gecko_lab.__main__ import main
from gecko_lab.reports import html, run_data
from gecko_lab.reports.report_command import report
from tests.fake_runs import write_grid, write_run
from tests.reports.conftest import HOSTILE
from tests.reports.pages import Page, column, make, numbers
from tests.training import run_tiny

VARIANTS = ("memory-base", "memory-level-1", "memory-level-2")


def value(found: dict[tuple[str, str, str], dict[str, str]], *where: str) -> float:
    return float(found[where[0], where[1], where[2]]["value"])


def test_numbers_are_those_of_metrics_csv(finished: Path) -> None:
    found = numbers(finished / "report.csv")
    finals = {
        (v, seed): column(finished / f"variant-{v}" / f"seed-{seed}", "loss/validation")[-1]
        for v in range(3)
        for seed in range(3)
    }
    mean = statistics.fmean(finals[1, seed] for seed in range(3))
    assert value(found, "values", "memory-level-1", "final loss/validation") == pytest.approx(mean, rel=1e-12)
    difference = statistics.fmean(finals[2, seed] - finals[0, seed] for seed in range(3))
    assert value(found, "differences", "memory-level-2", "difference") == pytest.approx(difference, rel=1e-9)
    best = min(column(finished / "variant-0" / "seed-2", "loss/validation"))
    assert value(found, "runs", "variant-0/seed-2", "best loss/validation") == best
    memory = statistics.fmean(
        max(column(finished / "variant-0" / f"seed-{seed}", "peak_memory_bytes")) for seed in range(3)
    )
    assert value(found, "speed", "memory-base", "peak memory") == pytest.approx(memory, rel=1e-12)


def test_every_measured_number_names_its_run_folders(finished: Path) -> None:
    for (table, row, name), cell in numbers(finished / "report.csv").items():
        if table in ("values", "differences", "speed", "positions") and cell["value"] and name != "seeds":
            variant = name if table == "positions" else row.removesuffix(" (base)")
            folder = f"variant-{VARIANTS.index(variant)}/seed-0"
            assert folder in cell["source"], (table, row, name)
    page = Page(finished / "report.html")
    links = [link for tag, name, link in page.attributes if tag == "a" and name == "href" and not link.startswith("#")]
    assert links
    assert all((finished / link).exists() for link in links)


def test_page_says_what_was_compared(finished: Path) -> None:
    page = Page(finished / "report.html")
    for text in ("What does the memory add?", *VARIANTS, "loss/validation", "300 steps", "9 finished", "worse by"):
        assert text in page.text, text
    for title in ("Settings that differ", "Budget", "Curves", "Loss by position", "Environment", "How to do it again"):
        assert title in page.text, title
    assert "gecko-lab grid finished.yaml" in page.text
    assert "Nothing: every run is finished" in page.text
    assert page.source.count("<svg") == 6, "forest plot, three curves of the loss, training loss, loss by position"


def test_failures_are_shown_and_left_out(troubled: Path) -> None:
    text = Page(troubled / "report.html").text
    assert "OutOfMemoryError: the device has no memory left <here>" in text
    assert "Traceback <last> / out of memory" in text
    assert "finished, but its last loss/validation is not a number" in text
    assert "not started yet: its folder is not there" in text
    assert "Attention: the runs differ in commit" in text
    assert "deadbeef0000+" in text
    found = numbers(troubled / "report.csv")
    assert found["values", "memory-level-1", "seeds"]["text"] == "3 of 4"
    assert found["values", "memory-level-2", "seeds"]["text"] == "1 of 4"
    kept = [column(troubled / "variant-1" / f"seed-{seed}", "loss/validation")[-1] for seed in (0, 1, 3)]
    mean = value(found, "values", "memory-level-1", "final loss/validation")
    assert mean == pytest.approx(statistics.fmean(kept), rel=1e-12)


def test_hostile_names_stay_text(troubled: Path) -> None:
    page = Page(troubled / "report.html")
    assert not page.mistakes
    assert HOSTILE in page.text
    assert "<script" not in page.source
    assert any(HOSTILE in row for row in {key[1] for key in numbers(troubled / "report.csv")})


def test_product_of_axes_has_effects(tmp_path: Path) -> None:
    axes = {"memory": ["none", "awm"], "window": ["short", "long"]}
    write_grid(tmp_path / "g", axes=axes, num_seeds=3, num_rows=10)
    make(tmp_path / "g", "--formats", "html,csv")
    found = numbers(tmp_path / "g" / "report.csv")
    assert value(found, "effects", "memory: awm − none", "estimate") == pytest.approx(0.05, abs=0.02)
    assert "no evidence" in found["effects", "memory: awm − none × window: long − short", "verdict"]["text"]
    assert "Effects of the components" in Page(tmp_path / "g" / "report.html").text


def test_recall_by_distance(tmp_path: Path) -> None:
    write_grid(tmp_path / "g", num_variants=2, num_seeds=2, num_rows=10, recall=True)
    task = {"class_path": "KeyValueOverwrites", "init_args": {"length": 127, "num_values": 8}}
    for config in (tmp_path / "g").rglob("config.yaml"):
        config.write_text(
            config.read_text(encoding="utf-8") + f"\ndata: {json.dumps({'task': task})}\n", encoding="utf-8"
        )
    make(tmp_path / "g")
    found = numbers(tmp_path / "g" / "report.csv")
    last = [
        column(tmp_path / "g" / "variant-1" / f"seed-{seed}", "accuracy/validation/distance_0000064-0000127")[-1]
        for seed in range(2)
    ]
    assert value(found, "recall", "64–127", "memory-level-1") == pytest.approx(statistics.fmean(last), rel=1e-12)
    assert value(found, "recall", "guessing", "memory-base") == 1 / 8
    assert "worse by" in found["differences", "memory-level-1", "verdict"]["text"], "less accuracy is worse"


def test_one_seed_has_no_intervals_and_says_so(tmp_path: Path) -> None:
    write_grid(tmp_path / "g", num_seeds=1, num_rows=10)
    make(tmp_path / "g")
    text = Page(tmp_path / "g" / "report.html").text
    assert "one seed does not tell" in text
    assert "no verdict, because the noise between seeds is unknown" in text
    assert (
        "[" not in numbers(tmp_path / "g" / "report.csv")["values", "memory-level-1", "final loss/validation"]["text"]
    )


def test_one_run_only(tmp_path: Path) -> None:
    write_run(tmp_path / "alone", num_rows=10)
    make(tmp_path / "alone")
    page = Page(tmp_path / "alone" / "report.html")
    assert not page.mistakes
    assert "There is nothing to compare" in page.text
    last = column(tmp_path / "alone", "loss/validation")[-1]
    assert value(numbers(tmp_path / "alone" / "report.csv"), "values", "alone (base)", "final loss/validation") == last


@pytest.mark.parametrize("damage", ["missing", "empty", "bytes", "no validation"])
def test_metrics_that_are_not_there(tmp_path: Path, damage: str) -> None:
    write_grid(tmp_path / "g", num_variants=2, num_seeds=2, num_rows=10)
    metrics = tmp_path / "g" / "variant-1" / "seed-0" / "metrics.csv"
    if damage == "missing":
        metrics.unlink()
    elif damage == "no validation":
        pd.read_csv(metrics)[["step", "loss/train"]].to_csv(metrics, index=False)
    else:
        metrics.write_bytes(b"" if damage == "empty" else b"\x00\xff\n" * 50)
    make(tmp_path / "g")
    text = Page(tmp_path / "g" / "report.html").text
    assert ("cannot be read" if damage == "bytes" else "finished, but never logged loss/validation") in text


def test_nothing_finished_yet(tmp_path: Path) -> None:
    states = {(v, seed): "running" if v == 0 else "missing" for v in range(2) for seed in range(2)}
    write_grid(tmp_path / "g", num_variants=2, num_seeds=2, num_rows=10, states=states)
    make(tmp_path / "g")
    page = Page(tmp_path / "g" / "report.html")
    assert not page.mistakes
    assert "4 of 4 runs are not finished" in page.text
    assert "No differences:" in page.text


def test_base_and_metric_are_chosen(tmp_path: Path) -> None:
    write_grid(tmp_path / "g", num_seeds=2, num_rows=10)
    make(
        tmp_path / "g",
        "--base",
        "memory-level-2",
        "--metric",
        "bits_per_byte/validation",
        "--output",
        tmp_path / "x.html",
    )
    found = numbers(tmp_path / "x.csv")
    assert "better by" in found["differences", "memory-base", "verdict"]["text"]
    assert "bits per byte" in found["differences", "memory-base", "verdict"]["text"]
    assert ("differences", "memory-level-2", "verdict") not in found
    assert Page(tmp_path / "x.html").source.count('href="g/variant-0/seed-0"') == 1


def test_several_grids_and_runs_in_one_report(tmp_path: Path) -> None:
    write_grid(tmp_path / "a", num_variants=2, num_seeds=2, num_rows=10)
    write_grid(tmp_path / "b", num_variants=2, num_seeds=2, num_rows=10, recall=True)
    write_run(tmp_path / "loose", num_rows=10)
    report(str(tmp_path / "a"), str(tmp_path), output=str(tmp_path / "all.html"))
    page = Page(tmp_path / "all.html")
    assert not page.mistakes
    assert len(page.ids) == len(set(page.ids))
    assert {row["study"] for row in numbers(tmp_path / "all.csv").values()} >= {"a", "b"}
    assert "loose" in page.text


def test_json_has_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_grid(tmp_path / "g", num_variants=2, num_seeds=2, num_rows=10, states={(1, 1): "nan"})
    make(tmp_path / "g", "--json", "--formats", "csv")
    printed = json.loads(capsys.readouterr().out)
    assert printed["files"] == [str(Path(printed["files"][0]))]
    assert not (tmp_path / "g" / "report.html").exists()
    cells = {(c["table"], c["row"], c["column"]): c for c in printed["numbers"]}
    written = numbers(tmp_path / "g" / "report.csv")
    key = ("values", "memory-base (base)", "final loss/validation")
    assert repr(cells[key]["value"]) == written[key]["value"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere is not there"),
        (["empty"], "holds neither a run"),
        (["g", "--base", "memory-bas"], "did you mean memory-base"),
        (["g", "--metric", "loss/validatio"], "did you mean loss/validation"),
        (["g", "--formats", "pdf"], "unknown format 'pdf'"),
        (["bad"], "bad/grid.json cannot be read"),
        (["g", "--output", "file/report.html"], "cannot be written"),
        ([], "of what?"),
    ],
)
def test_mistakes_get_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path / "g", num_variants=2, num_seeds=1, num_rows=5)
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "grid.json").write_text("{", encoding="utf-8")
    (tmp_path / "file").write_text("")
    assert main(["report", *words]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not list(tmp_path.rglob("report.*"))


def test_reads_each_file_once_and_draws_few_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes 200 runs fast: counted, not timed."""
    write_grid(tmp_path / "g", num_variants=10, num_seeds=3, num_rows=5)
    tables, configs, pictures = [], [], []
    read_table, read_yaml, draw = run_data.read_metrics_table, run_data.read_yaml, html.svg_of
    monkeypatch.setattr(run_data, "read_metrics_table", lambda path: tables.append(path) or read_table(path))
    monkeypatch.setattr(run_data, "read_yaml", lambda path: configs.append(path) or read_yaml(path))
    monkeypatch.setattr(html, "svg_of", lambda figure: pictures.append(figure.name) or draw(figure))
    make(tmp_path / "g")
    assert len(tables) == len(set(tables)) == 30
    assert len(configs) == len(set(configs)) == 10, "one of each variant"
    assert len(pictures) == 6


def test_real_runs(tmp_path: Path) -> None:
    options = {"trainer__max_steps": 4, "trainer__val_check_interval": 2}
    (tmp_path / "runs").mkdir()
    for memory in ("AdaptiveWorkingMemory", "null"):
        for seed in range(2):
            flags = (f"--seed_everything={seed}", f"--model.network.layer.memory={memory}")
            run_tiny("fit", tmp_path, f"runs/{memory}-{seed}", *flags, **options)
    make(tmp_path / "runs")
    found = numbers(tmp_path / "runs" / "report.csv")
    page = Page(tmp_path / "runs" / "report.html")
    assert "Loss by position, numbers" in page.text
    assert ("differences", "memory=null", "difference") in found
    assert "model.network.layer.init_args.memory" in page.text
