"""The plan of a grid: every run with its settings and folder, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gecko_lab.configuration import find_config
from gecko_lab.errors import ConfigurationError, UserError
from gecko_lab.grids.budget import steps_of
from gecko_lab.grids.cells import cells
from gecko_lab.grids.definition import Definition, read_definition
from gecko_lab.grids.launcher import Job
from gecko_lab.grids.matching import match
from gecko_lab.grids.record import FILE_NAME, FORMAT, FORMAT_VERSION, read_grid
from gecko_lab.grids.slurm_launcher import FOLDER as SLURM_FOLDER
from gecko_lab.grids.variants import Variant, read_variants
from gecko_lab.runs.files import write_json, write_yaml
from gecko_lab.runs.identity import differences, identity
from gecko_lab.runs.lock import FILE_NAME as LOCK_FILE
from gecko_lab.runs.record_file import CONFIG_FILE, read_record
from gecko_lab.yaml_files import read_yaml

_OURS = {FILE_NAME, f".{FILE_NAME}.partial", LOCK_FILE, SLURM_FOLDER}


@dataclass(frozen=True)
class PlannedRun:
    """One run of a grid.

    Attributes:
        variant: what it trains.
        seed: of its weights and its data.
        folder: of the run.
    """

    variant: Variant
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """Variant and seed."""
        return f"{self.variant.name}/seed-{self.seed}"

    @property
    def config(self) -> Path:
        """The file that `fit` reads: all settings, so that a later change of the grid's own file changes nothing."""
        return self.folder.with_name(f"{self.folder.name}.yaml")

    @property
    def log(self) -> Path:
        """What the run's processes print."""
        return self.folder.with_name(f"{self.folder.name}.log.txt")

    def job(self) -> Job:
        """What a launcher is given."""
        return Job(self.name, ("fit", "--config", str(self.config), "--run", str(self.folder)), self.log)

    def settings(self) -> dict[str, Any]:
        """All settings of the run."""
        return self.variant.run_settings(self.seed)

    def write_config(self) -> None:
        """Write the file that `fit` reads."""
        settings = self.settings()
        if settings["trainer"].get("enable_progress_bar") is None:
            settings["trainer"]["enable_progress_bar"] = False  # it would fill the log
        self.config.parent.mkdir(parents=True, exist_ok=True)
        write_yaml(self.config, settings)


@dataclass
class Plan:
    """A grid that can be started.

    Attributes:
        name: of the configuration.
        config: as the user named it.
        question: what the grid asks.
        folder: of the grid.
        definition: what the file says.
        variants: its cells, the base among them.
    """

    name: str
    config: str
    question: str
    folder: Path
    definition: Definition
    variants: list[Variant]

    @property
    def base(self) -> Variant:
        """The variant that the others are compared with."""
        return next(variant for variant in self.variants if variant.cell.levels == self.definition.base)

    def runs(self) -> list[PlannedRun]:
        """Every run, a whole set of variants for one seed after the other: early results compare all variants."""
        return [run for seed in self.definition.seeds for run in self._of_seed(seed)]

    def runs_of(self, variant: Variant) -> list[PlannedRun]:
        """The runs of a variant."""
        return [run for run in self.runs() if run.variant is variant]

    def _of_seed(self, seed: int) -> Iterator[PlannedRun]:
        for variant in self.variants:
            yield PlannedRun(variant, seed, self.folder / variant.name / f"seed-{seed}")

    def take_budget(self) -> None:
        """Turn the budget into steps of each variant.

        A budget in time gives the steps that an earlier start of the same grid found: they are part of what a run is.

        Raises:
            ConfigurationError: the budget is a time and a variant's speed is not known.
        """
        budget = self.definition.budget
        if budget is None:
            return
        earlier = read_grid(self.folder) or {}
        known = {variant["name"]: variant.get("steps") for variant in earlier.get("variants", [])}
        for variant in self.variants:
            steps = known.get(variant.name) if budget.unit == "minutes" else None
            if steps is None or earlier.get("budget") != budget.text:
                steps = steps_of(
                    budget,
                    tokens_per_step=variant.tokens_per_step,
                    flops_per_token=variant.cost.flops_per_token,
                    seconds_per_step=variant.predicted.get("seconds_per_step"),
                )
            variant.take_steps(steps)

    def check(self) -> None:
        """Look for variants that are alike, and for what is in the folder already.

        Raises:
            ConfigurationError: two variants have the same settings; the folder holds something else than this grid,
                or runs of other settings.
        """
        known: dict[str, str] = {}
        for variant in self.variants:
            other = known.setdefault(identity(variant.settings), variant.name)
            if other != variant.name:
                raise ConfigurationError(
                    f"grid: {other} and {variant.name} have the same settings; exclude one of them"
                )
        if self.folder.exists() and read_grid(self.folder) is None:
            found = [self.folder.name] if not self.folder.is_dir() else [path.name for path in self.folder.iterdir()]
            if set(found) - _OURS:
                raise ConfigurationError(
                    f"--folder: {self.folder} holds something else than a grid; name another folder"
                )
        changed = [line for run in self.runs() if (line := _changed(run))]
        if changed:
            shown = "\n  ".join(changed[:12] + ([f"and {len(changed) - 12} more"] if len(changed) > 12 else []))
            raise ConfigurationError(
                f"{self.folder} holds runs of this grid with other settings; name another folder with --folder, or "
                f"remove these:\n  {shown}"
            )

    def write(self) -> None:
        """Write `grid.json` and the file of each run."""
        for run in self.runs():
            run.write_config()
        write_json(self.folder / FILE_NAME, self.record())

    def record(self) -> dict[str, Any]:
        """What `grid.json` says."""
        definition = self.definition
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "name": self.name,
            "config": self.config,
            "question": self.question,
            "axes": {axis: list(levels) for axis, levels in definition.axes.items()},
            "base": definition.base,
            "design": definition.design,
            "seeds": list(definition.seeds),
            "metric": definition.metric,
            "mode": definition.mode,
            "match": definition.match,
            "budget": None if definition.budget is None else definition.budget.text,
            "variants": [self._describe(variant) for variant in self.variants],
        }

    def _describe(self, variant: Variant) -> dict[str, Any]:
        return {
            "name": variant.name,
            "levels": variant.cell.levels,
            "overrides": variant.cell.overrides,
            "matched": variant.matched,
            "cost": {**variant.cost._asdict(), "tokens_per_step": variant.tokens_per_step},
            "steps": variant.steps,
            "predicted": variant.predicted,
            "runs": [
                {"seed": run.seed, "folder": run.folder.relative_to(self.folder).as_posix()}
                for run in self.runs_of(variant)
            ],
        }


def make_plan(config: str, overrides: list[str], folder: Path | None = None) -> Plan:
    """Plan a grid, up to the budget.

    Args:
        config: the file, found as `fit` finds it.
        overrides: flags of `fit`, for every run.
        folder: of the grid; by default `runs/NAME`.

    Raises:
        UserError: the file is wrong; cells are, all of which one message names; they cannot be matched.
    """
    path = find_config(config)
    settings = read_yaml(path)
    if "grid" not in settings:
        raise ConfigurationError(f"{path}: there is no key `grid`; `gecko-lab fit --config {config}` trains it")
    definition = read_definition(settings["grid"], str(path))
    forbidden = [word for word in overrides if word.partition("=")[0] in ("--run", "--fresh")]
    if forbidden:
        raise ConfigurationError(
            f"{forbidden[0].partition('=')[0]}: a grid names the folders of its runs; see --folder"
        )
    variants = read_variants(["--config", str(path), *overrides], cells(definition))
    plan = Plan(
        name=path.stem,
        config=config,
        question=_question(path),
        folder=Path("runs") / path.stem if folder is None else folder,
        definition=definition,
        variants=variants,
    )
    match(variants, plan.base, definition.match, definition.match_by)
    for variant in variants:
        if definition.budget is not None and variant.settings["model"]["optimizer"].get("duration") is not None:
            raise ConfigurationError(
                "grid.budget and model.optimizer.duration both say how long a run is; leave out one"
            )
    return plan


def _question(path: Path) -> str:
    """The first comment line of a file; empty where it does not begin with one."""
    first = path.read_text(encoding="utf-8").lstrip().partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def _changed(run: PlannedRun) -> str | None:
    """In which settings the run that is there differs from the one that is planned."""
    try:
        record = read_record(run.folder)
        if record is None or record["identity"] == identity(run.settings()):
            return None
        keys = differences(run.settings(), read_yaml(run.folder / CONFIG_FILE))
    except UserError as error:
        return f"{run.name}: {error}"
    return f"{run.name}: {', '.join(keys[:5])}{' …' if len(keys) > 5 else ''}"
