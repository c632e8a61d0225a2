import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from gecko_lab.dashboard.watcher import Watcher
from gecko_lab.errors import ConfigurationError
from tests.fake_runs import write_grid, write_run


def shown(folder: Path) -> set[str]:
    runs = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload().Runs()
    return {run for run in runs if "/" not in run}


def texts(folder: Path) -> dict[str, str]:
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    return {
        tag: multiplexer.Tensors("report", tag)[-1].tensor_proto.string_val[0].decode()
        for tag in multiplexer.Runs()["report"]["tensors"]
        if tag.startswith("report/")
    }


def test_watcher_follows_a_grid_that_is_written_anew(tmp_path: Path) -> None:
    grid = write_grid(tmp_path / "grid", num_seeds=1, num_rows=4)
    watcher = Watcher(grid.parent, tmp_path / "board", seeds="hide")
    watcher.look()
    record = json.loads(grid.read_text())
    whole = grid.read_text()
    record["variants"].pop()
    for text in (json.dumps(record), whole[: len(whole) // 2]):
        aside = grid.with_name("grid.new")
        aside.write_text(text)
        aside.replace(grid)
        if text == json.dumps(record):
            watcher.look()
            assert shown(tmp_path / "board") == {"memory-base", "memory-level-1", "report"}
        else:
            with pytest.raises(ConfigurationError, match="cannot be read"):
                watcher.look()
    assert shown(tmp_path / "board") == {"memory-base", "memory-level-1", "report"}


def test_watcher_finds_runs_that_no_grid_names(tmp_path: Path) -> None:
    write_run(tmp_path / "runs" / "first", overrides={"model.network.size": "15m"})
    watcher = Watcher(tmp_path / "runs", tmp_path / "board", seeds="hide")
    watcher.look()
    assert shown(tmp_path / "board") == {"first", "report"}
    write_run(tmp_path / "runs" / "second", overrides={"model.network.size": "50m"}, identity="other")
    watcher.report_if_due()
    watcher.look()
    assert shown(tmp_path / "board") == {"first", "second", "report"}


def test_watcher_reports_verdicts_effects_and_failures(tmp_path: Path) -> None:
    axes = {"memory": ["on", "off"], "decay": ["on", "off"]}
    grid = write_grid(tmp_path / "grid", axes=axes, states={(3, 0): "failed"}, num_rows=4)
    watcher = Watcher(grid.parent, tmp_path / "board", seeds="hide")
    watcher.look()
    watcher.report()
    written = texts(tmp_path / "board")
    assert "worse by" in written["report/1_results"]
    assert "Main effects and interactions" in written["report/1_results"]
    assert "OutOfMemoryError" in written["report/2_failures"]


def test_watcher_reports_a_grid_of_which_nothing_is_finished(tmp_path: Path) -> None:
    states = {(variant, seed): "missing" for variant in range(3) for seed in range(3)}
    grid = write_grid(tmp_path / "grid", states=states)
    watcher = Watcher(grid.parent, tmp_path / "board", seeds="hide")
    watcher.look()
    watcher.report()
    assert "9 of 9 runs are not finished" in texts(tmp_path / "board")["report/1_results"]
