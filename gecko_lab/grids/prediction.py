"""How long runs will take and how much memory: from runs that are there, else from a trial of a few steps."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.launcher import Job, Launcher
from gecko_lab.grids.plan import Plan, PlannedRun
from gecko_lab.grids.record import read_grid
from gecko_lab.grids.variants import Variant
from gecko_lab.runs.files import write_yaml
from gecko_lab.runs.metrics_file import read_metrics
from gecko_lab.runs.record_file import run_state

TRIAL_STEPS = 3
_TRIAL: dict[str, dict[str, Any]] = {
    "trainer": {
        "max_steps": TRIAL_STEPS,
        "log_every_n_steps": 1,
        "limit_val_batches": 1,
        "num_sanity_val_steps": 1,
        "enable_progress_bar": False,
    },
    "checkpoint": {"every": None, "keep_best": 0},
    "text_sample": {"num_tokens": 1},
    "summary": {"baseline": False},
}


def predict(plan: Plan, launcher: Launcher, *, trial: bool, tell: Callable[[str], None]) -> None:
    """Fill in what the variants will take.

    Args:
        plan: its variants are changed.
        launcher: where trials run.
        trial: try out the variants of which there are no runs.
        tell: is called with what is under way.

    Raises:
        ConfigurationError: a variant does not train; the message has the last lines of its trial.
        KeyboardInterrupt: the user has stopped it.
    """
    earlier = {variant["name"]: variant for variant in (read_grid(plan.folder) or {}).get("variants", [])}
    unknown = []
    for variant in plan.variants:
        known = _from_runs(plan.runs_of(variant))
        before = earlier.get(variant.name, {})
        if not known and before.get("overrides") == variant.cell.overrides and before.get("matched") == variant.matched:
            known = dict(before.get("predicted") or {})
        variant.predicted = known
        if not known:
            unknown.append(variant)
    if unknown and trial:
        tell(f"a trial of {TRIAL_STEPS} steps of {len(unknown)} variants; --no_trial leaves it out")
        with tempfile.TemporaryDirectory(prefix="gecko-lab-trial-", dir=launcher.shared_folder()) as folder:
            _try_out(unknown, plan.definition.seeds[0], Path(folder), launcher, tell)


def finish_predictions(plan: Plan) -> None:
    """Once the steps are known: the time of a whole run."""
    for variant in plan.variants:
        per_step = variant.predicted.get("seconds_per_step")
        if per_step is not None and variant.steps is not None:
            variant.predicted["seconds"] = variant.predicted.get("seconds_before", 0.0) + per_step * variant.steps


def _from_runs(runs: Sequence[PlannedRun]) -> dict[str, float]:
    """Speed and memory as the runs of a variant have logged them."""
    for run in runs:
        found = _measured(run.folder, run.variant)
        if found:
            return found
    return {}


def _measured(folder: Path, variant: Variant) -> dict[str, float]:
    rows = [row for row in read_metrics(folder) if row.get("tokens_per_second")]
    if not rows:
        return {}
    found = {"seconds_per_step": variant.tokens_per_step / float(rows[-1]["tokens_per_second"])}
    if rows[-1].get("peak_memory_bytes"):
        found["memory_bytes"] = float(rows[-1]["peak_memory_bytes"])
    return found


def _try_out(
    variants: Sequence[Variant], seed: int, folder: Path, launcher: Launcher, tell: Callable[[str], None]
) -> None:
    waiting = list(variants)
    begun: dict[str, float] = {}
    by_name = {variant.name: variant for variant in variants}
    try:
        while waiting or begun:
            while waiting and len(begun) < launcher.slots:
                variant = waiting.pop(0)
                config = folder / f"{variant.name}.yaml"
                write_yaml(config, trial_settings(variant, seed))
                words = ("fit", "--config", str(config), "--run", str(folder / variant.name))
                launcher.start([Job(variant.name, words, folder / f"{variant.name}.log")])
                begun[variant.name] = time.monotonic()
            for job, _ in launcher.ended():
                seconds = time.monotonic() - begun.pop(job.name)
                if run_state(folder / job.name) != "finished":
                    lines = job.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-12:]
                    raise ConfigurationError("\n  ".join([f"{job.name} does not train:", *lines]))
                variant = by_name[job.name]
                variant.predicted = found = _measured(folder / job.name, variant)
                if found:
                    found["seconds_before"] = max(seconds - TRIAL_STEPS * found["seconds_per_step"], 0.0)
                tell(f"tried {job.name}")
            time.sleep(0.05)
    finally:
        launcher.kill()


def trial_settings(variant: Variant, seed: int) -> dict[str, Any]:
    """The settings of a run that is over after a few steps."""
    settings = variant.run_settings(seed)
    for group, values in _TRIAL.items():
        settings[group] = {**(settings.get(group) or {}), **values}
    return settings
