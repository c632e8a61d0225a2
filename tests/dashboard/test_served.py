"""What TensorBoard's own interface says of a dashboard that is served."""

import csv
import os
import signal
from pathlib import Path

import pytest

from gecko_lab.dashboard.layout import lower_tag, upper_tag
from tests.dashboard.serving import Dashboard, served
from tests.fake_runs import write_grid

VARIANTS = ["memory-base", "memory-level-1", "memory-level-2"]


def final(folder: Path, name: str) -> float:
    """The last value in metrics.csv, read by hand."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]][-1]


def test_scalars_are_means_over_the_seeds(dashboard: Dashboard, grid: Path) -> None:
    assert [run for run in sorted(dashboard.get("data/runs")) if "/" not in run] == [*VARIANTS, "report"]
    for number, variant in enumerate(VARIANTS[:2]):
        points = dashboard.get("data/plugin/scalars/scalars", run=variant, tag="loss/validation")
        mean = sum(final(grid / f"variant-{number}/seed-{seed}", "loss/validation") for seed in range(3)) / 3
        _, step, value = points[-1]
        assert (step, value) == (400, pytest.approx(mean))


def test_custom_scalars_draw_every_group_with_curves_that_are_there(dashboard: Dashboard) -> None:
    layout = dashboard.get("data/plugin/custom_scalars/layout")
    assert [category["title"] for category in layout["category"]] == ["Loss", "Throughput", "Stability"]
    tags = dashboard.get("data/plugin/scalars/tags")["memory-level-1"]
    for chart in (chart for category in layout["category"] for chart in category["chart"]):
        for series in chart.get("margin", {}).get("series", []):
            assert {series["value"], series["lower"], series["upper"]} <= set(tags)
        for pattern in chart.get("multiline", {}).get("tag", []):
            found = dashboard.get("data/plugin/custom_scalars/scalars", run="memory-level-1", tag=pattern)
            assert found["regex_valid"]
            assert len(found["tag_to_events"]) == 1
    assert lower_tag("loss/validation") in tags
    assert upper_tag("loss/validation") in tags


def test_hparams_have_a_row_for_each_run_with_levels_and_final_values(dashboard: Dashboard, grid: Path) -> None:
    columns = dashboard.post("data/plugin/hparams/experiment", {"experimentName": "", "hparamsLimit": 0})
    metrics = {info["displayName"]: info["name"] for info in columns["metricInfos"]}
    assert {"loss/validation", "tokens_per_second", "parameters", "flops_per_token"} <= metrics.keys()
    assert {info["name"] for info in columns["hparamInfos"]} == {"memory", "seed"}
    asked = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [{"hparam": name, "includeInResult": True} for name in ("memory", "seed")],
        "startIndex": 0,
        "sliceSize": 100,
    }
    rows = {}
    for group in dashboard.post("data/plugin/hparams/session_groups", asked)["sessionGroups"]:
        values = {value["name"]["tag"]: value["value"] for value in group["metricValues"]}
        row = group["hparams"]
        rows[row["memory"], row["seed"]] = values[metrics["loss/validation"]["tag"]]
    seeds = ["mean", "0", "1", "2"]
    assert rows.keys() == {(level, seed) for level in ("base", "level-1", "level-2") for seed in seeds}
    for seed in range(3):
        expected = final(grid / f"variant-1/seed-{seed}", "loss/validation")
        assert rows["level-1", str(seed)] == pytest.approx(expected)


def test_text_has_question_verdicts_and_failures(dashboard: Dashboard) -> None:
    def text(tag: str) -> str:
        (entry,) = dashboard.get("data/plugin/text/text", run="report", tag=tag, markdown="true")
        return str(entry["text"])

    results = text("report/1_results")
    assert "Does the memory help?" in results
    assert "worse by 0.0" in results
    assert "<table>" in results
    assert "OutOfMemoryError" in text("report/2_failures")


def test_images_are_pictures(dashboard: Dashboard) -> None:
    tags = dashboard.get("data/plugin/images/tags")["report"]
    assert tags.keys() == {"differences", "loss_by_position"}
    for tag in tags:
        (image,) = dashboard.get("data/plugin/images/images", run="report", tag=tag, sample="0")
        picture = dashboard.get_bytes(f"data/plugin/images/individualImage?{image['query']}")
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 5_000


def test_dashboard_follows_a_grid_that_runs_and_ends_with_its_process(tmp_path: Path) -> None:
    states = {(0, 0): "running", (1, 0): "missing"}
    grid = write_grid(tmp_path / "grid", num_variants=2, num_seeds=1, states=states, recall=True).parent
    run = grid / "variant-0" / "seed-0"
    header = (run / "metrics.csv").read_text(encoding="utf-8").split("\n")[0].split(",")

    def last_point(name: str) -> list[float]:
        tags = dashboard.get("data/plugin/scalars/tags")
        if name not in tags.get("memory-base", {}):
            return []
        points = dashboard.get("data/plugin/scalars/scalars", run="memory-base", tag=name)
        return list(points[-1][1:]) if points else []  # none while a file that replaces another is read

    with served(str(grid), "--seeds=hide") as dashboard:
        dashboard.wait_for(lambda: last_point("loss/train")[:1] == [200])
        with (run / "metrics.csv").open("a", encoding="utf-8") as file:
            new = {"step": "390", "loss/train": "0.125"}
            file.write(",".join(new.get(name, "") for name in header) + "\n")
        dashboard.wait_for(lambda: last_point("loss/train") == [390, 0.125])
        dashboard.wait_for(lambda: "report" in dashboard.get("data/plugin/text/tags"))
        os.kill(dashboard.process.pid, signal.SIGKILL)
        dashboard.wait_for(lambda: not dashboard.is_served())
