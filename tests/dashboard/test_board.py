import csv
import math
import shutil
from pathlib import Path

import pytest
from scipy import stats
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams import metadata

from gecko_lab.dashboard.board import MOST_RUNS, Board
from gecko_lab.dashboard.hparams import FINAL, MEAN
from gecko_lab.dashboard.layout import BY_TOKENS, lower_tag, upper_tag
from gecko_lab.dashboard.members import read_members
from gecko_lab.errors import ConfigurationError
from tests.fake_runs import TOKENS_PER_STEP, write_grid, write_run


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return write_grid(tmp_path / "grid").parent


class Shown:
    """What TensorBoard reads from a folder."""

    def __init__(self, folder: Path) -> None:
        self.multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()

    @property
    def runs(self) -> set[str]:
        return set(self.multiplexer.Runs())

    def scalars(self, run: str, tag: str) -> dict[int, float]:
        return {event.step: event.tensor_proto.float_val[0] for event in self.multiplexer.Tensors(run, tag)}

    def row(self, run: str) -> dict[str, str]:
        content = self.multiplexer.PluginRunToTagToContent(metadata.PLUGIN_NAME)[run][metadata.SESSION_START_INFO_TAG]
        hparams = metadata.parse_session_start_info_plugin_data(content).hparams
        return {name: value.string_value for name, value in hparams.items()}


def logged(folder: Path, name: str) -> dict[int, float]:
    """A column of metrics.csv, read by hand."""
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row[name]}


def board(folder: Path, **options: object) -> Board:
    return Board(folder, **({"seeds": "auto"} | options))  # type: ignore[arg-type]


def test_board_shows_mean_and_interval_of_each_variant(grid: Path, tmp_path: Path) -> None:
    board(tmp_path / "board").update(read_members(grid))
    shown = Shown(tmp_path / "board")
    for number, variant in enumerate(("memory-base", "memory-level-1", "memory-level-2")):
        for tag in ("loss/validation", "loss/train", "tokens_per_second", "gradient_norm"):
            seeds = [logged(grid / f"variant-{number}" / f"seed-{seed}", tag) for seed in range(3)]
            for step in seeds[0]:
                values = [seed[step] for seed in seeds]
                low, high = stats.t.interval(0.95, 2, loc=sum(values) / 3, scale=stats.sem(values))
                assert shown.scalars(variant, tag)[step] == pytest.approx(sum(values) / 3)
                assert shown.scalars(variant, lower_tag(tag))[step] == pytest.approx(low)
                assert shown.scalars(variant, upper_tag(tag))[step] == pytest.approx(high)
        by_tokens = shown.scalars(variant, f"{BY_TOKENS}loss/validation")
        steps = logged(grid / "variant-0/seed-0", "loss/validation")
        assert list(by_tokens) == [round(step * TOKENS_PER_STEP / 1000) for step in steps]


def test_board_has_a_row_for_each_run_with_levels_seed_cost_and_final_values(grid: Path, tmp_path: Path) -> None:
    board(tmp_path / "board").update(read_members(grid))
    shown = Shown(tmp_path / "board")
    rows = [
        (run, {"memory": level, "seed": seed})
        for level in ("base", "level-1", "level-2")
        for run, seed in [
            (f"memory-{level}", MEAN),
            *((f"seeds/memory-{level}/seed-{seed}", str(seed)) for seed in range(3)),
        ]
    ]
    assert {run for run, _ in rows} | {"report"} == shown.runs
    assert {run: shown.row(run) for run, _ in rows} == dict(rows)
    last = list(logged(grid / "variant-1/seed-2", "loss/validation").values())[-1]
    single = "seeds/memory-level-1/seed-2"
    assert list(shown.scalars(single, f"{FINAL}loss/validation").values()) == [pytest.approx(last)]
    assert list(shown.scalars(single, f"{FINAL}parameters").values()) == [15_001_000]


def test_board_writes_only_what_has_changed(grid: Path, tmp_path: Path) -> None:
    members, made = read_members(grid), board(tmp_path / "board")
    assert made.update(members)

    def files() -> dict[str, str]:
        newest = {}
        for path in sorted((tmp_path / "board").rglob("events.*")):
            newest[path.parent.relative_to(tmp_path / "board").as_posix()] = path.name
        return newest

    before = files()
    assert not made.update(members)
    assert files() == before
    with (grid / "variant-1/seed-0/metrics.csv").open("a") as file:
        columns = (grid / "variant-1/seed-0/metrics.csv").read_text().split("\n")[0].split(",")
        file.write(",".join({"step": "410", "loss/train": "2.5"}.get(name, "") for name in columns) + "\n")
    assert made.update(members)
    changed = {run for run, name in files().items() if before[run] != name}
    assert changed == {"memory-level-1", *(f"seeds/memory-level-1/seed-{seed}" for seed in range(3))}
    # one seed alone has come that far
    assert Shown(tmp_path / "board").scalars("memory-level-1", "loss/train")[410] == 2.5


def test_board_of_many_runs_shows_means_alone_unless_told(tmp_path: Path) -> None:
    grid = write_grid(tmp_path / "grid", num_variants=2, num_seeds=MOST_RUNS // 2, num_rows=3).parent
    members = read_members(grid)
    for seeds, number in (("auto", 3), ("show", 3 + MOST_RUNS), ("hide", 3)):
        made = board(tmp_path / seeds, seeds=seeds)
        made.update(members)
        assert len(Shown(tmp_path / seeds).runs) == number == made.num_runs()


def test_board_shows_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    grid = write_grid(tmp_path / "grid", states={(1, 0): "nan"}).parent
    board(tmp_path / "board").update(read_members(grid))
    shown = Shown(tmp_path / "board")
    for run in ("memory-level-1", "seeds/memory-level-1/seed-0"):
        (value,) = shown.scalars(run, f"{FINAL}loss/validation").values()
        assert math.isnan(value)
    (value,) = shown.scalars("seeds/memory-level-1/seed-1", f"{FINAL}loss/validation").values()
    assert math.isfinite(value)


def test_board_of_a_grid_that_has_not_begun_has_its_variants(tmp_path: Path) -> None:
    states = {(variant, seed): "missing" for variant in range(3) for seed in range(3)}
    grid = write_grid(tmp_path / "grid", states=states).parent
    made = board(tmp_path / "board")
    made.update(read_members(grid))
    assert {"memory-base", "memory-level-1", "memory-level-2", "report"} <= Shown(tmp_path / "board").runs
    write_run(grid / "variant-0" / "seed-0", final=3.0)
    assert made.update(read_members(grid))
    assert Shown(tmp_path / "board").scalars("memory-base", "loss/validation")


def test_board_follows_a_grid_of_other_variants(tmp_path: Path) -> None:
    made = board(tmp_path / "board")
    for names in ({}, {1: "another/name", 2: "report"}):
        shutil.rmtree(tmp_path / "grid", ignore_errors=True)
        grid = write_grid(tmp_path / "grid", num_seeds=1, num_rows=4, names=names).parent
        made.update(read_members(grid))
    runs = {run for run in Shown(tmp_path / "board").runs if not run.startswith("seeds/")}
    assert runs == {"memory-base", "another-name", "report", "report-2"}


def test_read_members_of_runs_without_a_grid_are_told_apart_by_their_settings(tmp_path: Path) -> None:
    for v, memory in enumerate(("AdaptiveWorkingMemory", None)):
        for seed in range(2):
            overrides = {"model.network.layer.init_args.memory": memory}
            write_run(tmp_path / f"run-{v}-{seed}", seed=seed, overrides=overrides, identity=f"{v}{seed}")
    members = read_members(tmp_path)
    assert [sorted(member.runs) for member in members.variants] == [[0, 1], [0, 1]]
    assert members.axes == {}
    board(tmp_path / "board").update(members)
    assert {member.name for member in members.variants} <= Shown(tmp_path / "board").runs


def nothing(folder: Path) -> None:
    folder.mkdir()


def two_grids(folder: Path) -> None:
    for name in ("a", "b"):
        write_grid(folder / name, num_seeds=1, num_rows=2)


@pytest.mark.parametrize(
    ("write", "message"),
    [(nothing, "holds neither a run .* nor a grid"), (two_grids, r"holds 2 things to compare .* name one")],
)
def test_read_members_says_what_to_name(tmp_path: Path, write, message: str) -> None:
    write(tmp_path / "runs")
    with pytest.raises(ConfigurationError, match=message):
        read_members(tmp_path / "runs")


def test_read_members_finds_the_one_grid_below_a_folder(grid: Path) -> None:
    assert read_members(grid.parent) == read_members(grid) == read_members(grid / "grid.json")
