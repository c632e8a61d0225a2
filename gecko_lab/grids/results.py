"""What the runs of a grid have reached, and how far apart variants must be to be told apart."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.table import Table

from gecko_lab.errors import UserError, nearest
from gecko_lab.grids.plan import Plan
from gecko_lab.grids.record import read_grid
from gecko_lab.runs.metrics_file import read_metrics
from gecko_lab.runs.record_file import read_record

POWER = 0.8
"""Probability with which the smallest detectable effect is found."""


def final_metric(folder: Path, metric: str) -> float | None:
    """The last value that a finished run has logged of a metric; none where it is not finished or has none."""
    record = read_record(folder)
    if record is None or record["state"] != "finished":
        return None
    values = [row[metric] for row in read_metrics(folder) if row.get(metric)]
    if values:
        return float(values[-1])
    value = record.get("metrics", {}).get(metric)
    return None if value is None else float(value)


def run_records(plan: Plan) -> list[dict[str, Any]]:
    """For each run its variant, levels, seed, folder and final metric, as `tidy_results` reads them."""
    metric = plan.definition.metric
    return [
        {
            **run.variant.cell.levels,
            "variant": run.variant.name,
            "seed": run.seed,
            "folder": run.folder.relative_to(plan.folder).as_posix(),
            "value": final_metric(run.folder, metric),
        }
        for variant in plan.variants
        for run in plan.runs_of(variant)
    ]


def results_table(plan: Plan, records: list[dict[str, Any]]) -> Table:
    """Each variant with its cost, its metric over the seeds and the paired difference to the base."""
    metric, base = plan.definition.metric, plan.base.name
    verdicts = _verdicts(plan, records)
    table = Table(title=f"{plan.name}: {metric} at the end, {plan.definition.mode} is better")
    table.add_column("variant")
    for column in ("seeds", "mean", "lowest", "highest"):
        table.add_column(column, justify="right")
    table.add_column(f"beside {base}")
    for variant in plan.variants:
        values = [one["value"] for one in records if one["variant"] == variant.name and _is_known(one["value"])]
        numbers = (sum(values) / len(values), min(values), max(values)) if values else ()
        shown = [f"{number:.4f}" for number in numbers] or [""] * 3
        verdict = "base" if variant is plan.base else verdicts[variant.name]
        table.add_row(variant.name, str(len(values)), *shown, verdict)
    return table


def missing_metric(plan: Plan, records: list[dict[str, Any]]) -> str | None:
    """What to say where no run has the metric that the grid compares; none where one has it."""
    if any(_is_known(one["value"]) for one in records):
        return None
    logged = {name for one in records for row in read_metrics(plan.folder / one["folder"]) for name in row}
    metric = plan.definition.metric
    return f"no finished run has logged {metric}{nearest(metric, [name for name in logged if '/validation' in name])}"


def _verdicts(plan: Plan, records: list[dict[str, Any]]) -> dict[str, str]:
    from gecko_lab.statistics import compare, comparison_verdicts, tidy_results

    try:
        comparison = compare(tidy_results(records), base=plan.base.name)
    except UserError as error:  # the base has no run, for instance
        return {variant.name: f"not compared: {error}" for variant in plan.variants}
    verdicts = comparison_verdicts(comparison, lower_is_better=plan.definition.mode == "min")
    return {verdict.name: verdict.text for verdict in verdicts}


def noise_of(folder: Path, metric: str) -> float | None:
    """Standard deviation of the paired differences in the finished runs of a grid; none where too few are there.

    Raises:
        ConfigurationError: its `grid.json` is damaged.
    """
    from gecko_lab.statistics import noise_floor, tidy_results

    record = read_grid(folder)
    if record is None:
        return None
    records = [
        {"variant": variant["name"], "seed": run["seed"], "value": final_metric(folder / run["folder"], metric)}
        for variant in record["variants"]
        for run in variant["runs"]
    ]
    deviation = noise_floor(tidy_results(records)).planning_deviation if records else None
    return deviation if deviation is not None and math.isfinite(deviation) else None


def detectable(plan: Plan, noise: float) -> float | None:
    """The smallest difference to the base that the grid finds with `POWER`; none with one seed."""
    from gecko_lab.statistics import smallest_effect

    return smallest_effect(
        paired_standard_deviation=noise,
        num_seeds=len(plan.definition.seeds),
        num_comparisons=len(plan.variants) - 1,
        power=POWER,
    )


def _is_known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
