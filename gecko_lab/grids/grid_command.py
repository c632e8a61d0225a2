"""`gecko-lab grid`: plan a grid, train its runs, compare them."""

from __future__ import annotations

import json as json_format
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.launcher import Launcher
from gecko_lab.grids.local_launcher import LocalLauncher, visible_gpus
from gecko_lab.grids.plan import Plan, make_plan
from gecko_lab.grids.plan_table import print_plan
from gecko_lab.grids.prediction import finish_predictions, predict
from gecko_lab.grids.progress import RunProgress
from gecko_lab.grids.results import missing_metric, noise_of, results_table, run_records
from gecko_lab.grids.scheduler import Scheduler
from gecko_lab.grids.slurm_launcher import SlurmLauncher
from gecko_lab.grids.slurm_options import SlurmOptions, read_slurm
from gecko_lab.grids.table import Display
from gecko_lab.parser import run_function
from gecko_lab.runs.lock import RunLock, RunLocked
from gecko_lab.runs.record_file import run_state

_VALUES = ("--folder", "--jobs", "--retries", "--noise", "--launcher", "--slurm")
_SWITCHES = ("--dry_run", "--no_trial", "--json", "--detach")
_SPELLINGS = {"--dry-run": "--dry_run", "--no-trial": "--no_trial"}
_SLURM = "--slurm."
FAILED = 1
"""The exit code where runs have failed for good."""


@dataclass(frozen=True)
class Options:
    """What the command line says beside the flags of `fit`; see `grid`."""

    config: str
    folder: Path | None
    jobs: int | None
    dry_run: bool
    retries: int | None
    no_trial: bool
    noise: str | None
    json: bool
    launcher: Literal["local", "slurm"]
    slurm: dict[str, Any]
    detach: bool


def run(arguments: list[str]) -> int:
    """Run the verb.

    Returns:
        The exit code: 0, 1 where runs have failed, or 128 and the number of the signal that stopped it.

    Raises:
        UserError: for a user's mistake, before anything starts.
    """
    own, overrides = split(arguments)
    options: Options = run_function(grid, "gecko-lab grid", own)
    plan = make_plan(options.config, overrides, options.folder)
    launcher = _launcher(plan, options)
    trial = not options.no_trial and not _is_done(plan)
    if options.launcher == "slurm" and not _needs_speed(plan):
        trial = False  # a queue may take hours; what earlier runs have measured is known without
    if _needs_speed(plan):
        predict(plan, launcher, trial=trial, tell=_tell)  # the steps follow from the speed
        plan.take_budget()
        plan.check()
    else:
        plan.take_budget()
        plan.check()
        predict(plan, launcher, trial=trial, tell=_tell)
    finish_predictions(plan)
    noise = _noise(plan, options)
    if not options.json:
        print_plan(plan, noise, min(options.jobs or launcher.slots, len(plan.runs())))
    if options.dry_run:
        if options.json:
            print(json_format.dumps(plan.record(), indent=2, ensure_ascii=False))
        return 0
    return _train(plan, launcher, options)


def grid(
    config: str = "",
    *,
    folder: str | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    retries: int | None = None,
    no_trial: bool = False,
    noise: str | None = None,
    json: bool = False,
    launcher: Literal["local", "slurm"] = "local",
    slurm: dict[str, Any] | None = None,
    detach: bool = False,
) -> Options:
    """Train every variant of a grid with every seed, and compare them.

    A grid is a configuration of `fit` with a key `grid`: axes of named levels, each a set of overrides; seeds; a
    budget; what must match. Every other flag is one of `fit`, for all runs: `--trainer.max_steps 100`. The plan is
    printed first, and nothing starts if one variant is wrong. The same command again goes on where it stopped: finished
    runs are left alone, interrupted ones resumed, failed ones tried again.

    Example: gecko-lab grid ablate_recall.yaml --jobs 2

    Args:
        config: the file, as given or in experiments/.
        folder: of the grid; by default `runs/NAME`.
        jobs: runs that train at once; by default one for each GPU, or one.
        dry_run: print the plan and start nothing but the trial.
        retries: how often a run that failed is started again; by default what the file says.
        no_trial: do not try each variant for a few steps, by which time and memory are predicted.
        noise: the standard deviation of paired differences, or the folder of an earlier grid to take it from.
        json: print one JSON object at the end instead of tables.
        launcher: where runs train: as processes of this machine, or as jobs of a SLURM cluster, in arrays. The jobs
            outlive this command; the same command again goes on with them. Ctrl-C stops them with checkpoints.
        slurm: what each job asks for, beside or instead of the key `grid.slurm`: `--slurm.partition gpu`,
            `--slurm.time "4 hours"`, account, qos, constraint, cpus, gpus, memory, warning.
        detach: submit the jobs to SLURM and do not wait for them. Runs that fail are tried again by the next command.
    """
    if not config:
        raise ConfigurationError(
            "gecko-lab grid: which file? For example `gecko-lab grid ablate_recall.yaml --dry_run`"
        )
    if launcher == "local" and (detach or slurm):
        raise ConfigurationError(f"{'--detach' if detach else '--slurm'} goes with --launcher slurm")
    for name, value, least in (("--jobs", jobs, 1), ("--retries", retries, 0)):
        if value is not None and value < least:
            raise ConfigurationError(f"{name}: must be at least {least}, got {value}")
    place = None if folder is None else Path(folder).expanduser()
    return Options(config, place, jobs, dry_run, retries, no_trial, noise, json, launcher, dict(slurm or {}), detach)


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The verb's own arguments, and the flags of `fit` among them."""
    own: list[str] = []
    others: list[str] = []
    queue = list(arguments)
    while queue:
        word = queue.pop(0)
        word = _SPELLINGS.get(word, word)
        flag, has_value, _ = word.partition("=")
        if flag in _VALUES or flag.startswith(_SLURM):
            own += [word] if has_value else [word, *queue[:1]]
            del queue[: 0 if has_value else 1]
        elif flag in _SWITCHES or flag in ("-h", "--help") or not flag.startswith("-"):
            own.append(word)
        else:
            others.append(word)
            if not has_value and queue and not queue[0].startswith("--"):
                others.append(queue.pop(0))
    return own, others


def _launcher(plan: Plan, options: Options) -> Launcher:
    trainer = plan.base.settings["trainer"]
    if options.launcher == "slurm":
        return _slurm_launcher(plan, options)
    gpus: list[str] = []
    if trainer["accelerator"] in ("auto", "gpu", "cuda"):
        devices = trainer["devices"]
        gpus = visible_gpus(int(devices) if str(devices).isdecimal() else 1)
    jobs = options.jobs or max(len(gpus), 1)
    if gpus and jobs > len(gpus):
        raise ConfigurationError(f"--jobs: {jobs} runs at once need a GPU each, and there are {len(gpus)}")
    return LocalLauncher(jobs, gpus)


def _slurm_launcher(plan: Plan, options: Options) -> SlurmLauncher:
    """Jobs that all ask for the same: an array has one kind."""
    asked = plan.definition.slurm | read_slurm(options.slurm, "--slurm")
    base = plan.base.settings["trainer"]
    for variant in plan.variants:
        for name in ("devices", "num_nodes", "accelerator"):
            if variant.settings["trainer"].get(name) != base.get(name):
                raise ConfigurationError(
                    f"--launcher slurm: {variant.name} has another trainer.{name} than {plan.base.name}; make it a "
                    "grid of its own"
                )
    return SlurmLauncher(plan.folder, plan.name, SlurmOptions(**asked), base, options.jobs)


def _needs_speed(plan: Plan) -> bool:
    """Whether the steps follow from the speed."""
    return plan.definition.budget is not None and plan.definition.budget.unit == "minutes"


def _is_done(plan: Plan) -> bool:
    return all(record["value"] is not None for record in run_records(plan))


def _noise(plan: Plan, options: Options) -> float | None:
    """The noise to plan with: as given, of an earlier grid, or of the runs that are there."""
    metric = plan.definition.metric
    if options.noise is None:
        return noise_of(plan.folder, metric)
    try:
        value = float(options.noise)
    except ValueError:
        found = noise_of(Path(options.noise).expanduser(), metric)
        if found is None:
            raise ConfigurationError(
                f"--noise: {options.noise} is neither a number nor the folder of a grid with two seeds finished"
            ) from None
        return found
    if not value > 0:
        raise ConfigurationError(f"--noise: must be more than nothing, got {options.noise}")
    return value


def _train(plan: Plan, launcher: Launcher, options: Options) -> int:
    lock = RunLock(plan.folder)
    try:
        lock.acquire()
    except RunLocked as error:
        raise ConfigurationError(
            f"{plan.folder}: another `gecko-lab grid` works on it; wait for it or stop it"
        ) from error
    try:
        plan.write()
        if options.detach:
            return _detach(plan, launcher)
        retries = plan.definition.retries if options.retries is None else options.retries
        with Display() as display:
            scheduler = Scheduler(plan.runs(), launcher, retries=retries, show=display.show)
            signum = scheduler.run()
        return _conclude(plan, scheduler.progress, signum, options)
    finally:
        lock.release()


def _detach(plan: Plan, launcher: Launcher) -> int:
    """Submit what is not finished and not under way."""
    waiting = [run.job() for run in plan.runs() if run_state(run.folder) != "finished"]
    under_way = {job.name for job in launcher.adopt(waiting)}
    submitted = [job for job in waiting if job.name not in under_way]
    launcher.start(submitted)
    print(f"{len(submitted)} runs submitted, {len(under_way)} were under way; squeue --me shows them")
    print("the same command without --detach waits for them, tries failed ones again and compares")
    return 0


def _conclude(plan: Plan, progress: list[RunProgress], signum: int | None, options: Options) -> int:
    """Say what was reached, and what to do next."""
    records = run_records(plan)
    failed = [one for one in progress if one.state == "failed"]
    if options.json:
        states = {(one.run.variant.name, one.run.seed): one.state for one in progress}
        runs = [record | {"state": states[record["variant"], record["seed"]]} for record in records]
        print(json_format.dumps({"folder": str(plan.folder), "grid": plan.record(), "runs": runs}, ensure_ascii=False))
    elif signum is None:
        console = Console()
        console.print(results_table(plan, records))
        if missing := missing_metric(plan, records):
            console.print(missing, soft_wrap=True, markup=False, highlight=False)
        console.print(f"grid folder  {plan.folder}", soft_wrap=True)
        console.print(f"next         gecko-lab report {plan.folder}", soft_wrap=True)
        console.print(f"             gecko-lab dashboard {plan.folder}", soft_wrap=True)
    for one in failed:
        print(f"\n{one.run.name} failed; the end of {one.run.log}:\n{_indented(one.error)}", file=sys.stderr)
    if signum is not None:
        over = sum(one.state == "finished" for one in progress)
        print(
            f"gecko-lab: stopped with {over} of {len(progress)} runs finished; the same command goes on",
            file=sys.stderr,
        )
        return 128 + signum
    return FAILED if failed else 0


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def _tell(text: str) -> None:
    print(f"grid         {text}", file=sys.stderr, flush=True)
