"""The plan: steps from the budget, what is written, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.cells import Cell
from gecko_lab.grids.plan import Plan, make_plan
from gecko_lab.grids.record import read_grid
from gecko_lab.grids.variants import read_variant
from gecko_lab.runs.folder import RunFolder
from gecko_lab.runs.identity import identity
from tests.grids.tiny import MEMORY, VALUE_DIM, plan_of, write_grid

AXES: dict[str, Any] = {"memory": {"on": {}, "off": {MEMORY: None}}}
GRID: dict[str, Any] = {"axes": AXES, "seeds": [0, 3], "match": "none"}


def begun(plan: Plan) -> Path:
    """The folder of the plan's first run, as a run that has begun leaves it."""
    run = plan.runs()[0]
    folder = RunFolder(run.folder, run.settings())
    folder.claim(["gecko-lab"])
    folder.end("interrupted")
    return run.folder


def test_make_plan_has_every_variant_with_every_seed(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    assert [run.name for run in plan.runs()] == [
        *("memory-on/seed-0", "memory-off/seed-0"),
        *("memory-on/seed-3", "memory-off/seed-3"),
    ]
    assert plan.base.name == "memory-on"
    assert (plan.name, plan.question) == ("tiny", "Does it train?")
    for run in plan.runs():
        settings = run.settings()
        assert (settings["seed_everything"], settings["data"]["seed"]) == (run.seed, run.seed)


def test_write_leaves_configurations_that_fit_reads_as_they_were_planned(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {**GRID, "match": "parameters", "budget": "3000 tokens"})
    plan.write()
    for run in plan.runs():
        again = read_variant(["--config", str(run.config)], Cell("again", {}, {}))
        assert identity(again.settings) == identity(run.settings())
        assert again.settings["trainer"]["max_steps"] == -(-3000 // 128)
        assert again.settings["trainer"]["enable_progress_bar"] is False


def test_write_leaves_grid_json(tmp_path: Path) -> None:
    axes = {"width": {"16": {}, "24": {VALUE_DIM: 24}}}
    plan = plan_of(
        tmp_path, {**GRID, "axes": axes, "budget": "20 steps", "metric": "loss/train", "match": "parameters"}
    )
    plan.write()
    record = read_grid(plan.folder)
    assert record == json.loads((plan.folder / "grid.json").read_text())
    assert record is not None
    variants = record.pop("variants")
    assert record == {
        "format": "gecko-lab-grid",
        "format_version": 1,
        "name": "tiny",
        "config": str(tmp_path / "tiny.yaml"),
        "question": "Does it train?",
        "axes": {"width": ["16", "24"]},
        "base": {"width": "16"},
        "design": "product",
        "seeds": [0, 3],
        "metric": "loss/train",
        "mode": "min",
        "match": "parameters",
        "budget": "20 steps",
    }
    base, wide = variants
    assert base["cost"] == {**plan.base.cost._asdict(), "tokens_per_step": 128}
    assert (wide["name"], wide["levels"], wide["overrides"]) == ("width-24", {"width": "24"}, {VALUE_DIM: 24})
    assert wide["steps"] == 20
    assert wide["runs"] == [{"seed": seed, "folder": f"width-24/seed-{seed}"} for seed in (0, 3)]
    hidden = wide["matched"]["hidden_dim"]
    network = yaml.safe_load(plan.runs_of(plan.variants[1])[0].config.read_text())["model"]["network"]
    assert network["layer"]["init_args"]["hidden_dim"] == hidden
    assert abs(wide["cost"]["parameters"] / base["cost"]["parameters"] - 1) <= 0.005


def test_take_budget_of_flops_gives_each_variant_its_steps(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {**GRID, "budget": "1e9 FLOPs"})
    for variant in plan.variants:
        assert variant.steps is not None
        spent = 3 * variant.cost.flops_per_token * variant.tokens_per_step * variant.steps
        assert abs(spent / 1e9 - 1) < 0.05
    assert plan.variants[0].steps != plan.variants[1].steps


def test_take_budget_of_a_time_keeps_the_steps_that_were_found_first(tmp_path: Path) -> None:
    plan = make_plan(str(write_grid(tmp_path, {**GRID, "budget": "1 minute"})), [], tmp_path / "grid")
    with pytest.raises(ConfigurationError, match="leave out --no_trial"):
        plan.take_budget()
    for variant, seconds in zip(plan.variants, (0.5, 0.25), strict=True):
        variant.predicted = {"seconds_per_step": seconds}
    plan.take_budget()
    assert [variant.steps for variant in plan.variants] == [120, 240]
    plan.write()
    again = make_plan(str(tmp_path / "tiny.yaml"), [], tmp_path / "grid")
    again.take_budget()
    assert [variant.steps for variant in again.variants] == [120, 240]


def test_make_plan_refuses_a_budget_beside_a_duration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"grid\.budget and model\.optimizer\.duration"):
        plan_of(tmp_path, {**GRID, "budget": "9 steps"}, model={"optimizer": {"duration": 9}})


def test_make_plan_takes_flags_of_fit_for_every_run(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID, "--trainer.max_steps", "4", "--model.network.dropout=0.5")
    assert {variant.steps for variant in plan.variants} == {4}
    assert {variant.settings["model"]["network"]["dropout"] for variant in plan.variants} == {0.5}
    with pytest.raises(ConfigurationError, match="--run: a grid names the folders"):
        plan_of(tmp_path, GRID, "--run=elsewhere")


def test_make_plan_refuses_a_file_without_a_grid() -> None:
    with pytest.raises(ConfigurationError, match=r"no key `grid`; `gecko-lab fit --config quickstart\.yaml` trains it"):
        make_plan("quickstart.yaml", [])


def test_check_refuses_variants_that_are_alike(tmp_path: Path) -> None:
    axes = {"width": {"as it is": {}, "the same": {VALUE_DIM: 16}}}
    with pytest.raises(ConfigurationError, match="width-as-it-is and width-the-same have the same settings"):
        plan_of(tmp_path, {"axes": axes}).check()


def test_check_refuses_a_folder_of_something_else(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    plan.folder.mkdir()
    plan.check()
    (plan.folder / "thesis.tex").touch()
    with pytest.raises(ConfigurationError, match=r"--folder: .* holds something else than a grid"):
        plan.check()


def test_check_names_what_has_changed_of_runs_that_are_there(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    plan.write()
    begun(plan)
    plan.check()
    more = plan_of(tmp_path, {**GRID, "axes": {**AXES, "width": {"8": {}, "12": {VALUE_DIM: 24}}}, "seeds": [0, 3, 4]})
    more.check()  # the cells have other names: nothing is in their way
    changed = plan_of(tmp_path, GRID, "--model.optimizer.lr=0.02", "--trainer.max_steps", "9")
    with pytest.raises(ConfigurationError) as caught:
        changed.check()
    assert "name another folder with --folder" in str(caught.value)
    assert str(caught.value).splitlines()[1:] == ["  memory-on/seed-0: model.optimizer.lr, trainer.max_steps"]


def test_check_lets_cells_be_added_beside_runs_that_are_there(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GRID)
    plan.write()
    folder = begun(plan)
    levels = {**AXES["memory"], "additive": {MEMORY: "AdditiveMemory"}}
    more = plan_of(tmp_path, {**GRID, "axes": {"memory": levels}, "seeds": [0, 3, 4]})
    more.check()
    more.write()
    assert len(more.runs()) == 9
    assert folder in {run.folder for run in more.runs()}
    record = read_grid(plan.folder)
    assert record is not None
    assert [variant["name"] for variant in record["variants"]] == ["memory-on", "memory-off", "memory-additive"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "is not the record of a grid"),
        ('{"format": "gecko-lab-run"}', "is not the record of a grid"),
        ('{"format": "gecko-lab-grid", "format_version": 9}', "is of format 9"),
        ('{"format": "gecko-lab-grid", "format_version": 1}', "is damaged"),
        (
            '{"format": "gecko-lab-grid", "format_version": 1, "seeds": [], "variants": [3], "axes": {}, "base": {}}',
            "dam",
        ),
    ],
)
def test_read_grid_refuses_what_is_no_record(text: str, message: str, tmp_path: Path) -> None:
    assert read_grid(tmp_path) is None
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_grid(tmp_path)
