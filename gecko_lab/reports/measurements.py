"""What else the runs measured: loss by position, recall by distance, speed, memory, energy."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from gecko_lab.reports import figures
from gecko_lab.reports.document import Cell, Figure, Section, Table, number, scaled, words
from gecko_lab.reports.figures import Curve
from gecko_lab.reports.position_losses import FILE_NAME as POSITION_FILE
from gecko_lab.reports.run_data import RunData
from gecko_lab.reports.spread import finite, spread, spread_cell
from gecko_lab.reports.study import Study, Variant
from gecko_lab.runs.metrics_file import METRICS_FILE

_DISTANCE = re.compile(r"accuracy/validation/distance_0*(\d+)-0*(\d+)")
_BAND = "Lines are means over the finished runs, bands reach from the least to the most of the seeds."


def positions_section(study: Study) -> Section:
    """Loss by position in the sequence, of the last validation."""
    found: dict[str, pd.DataFrame] = {}  # variant: index (first, last), a column for each run
    for variant in study.variants:
        columns = {
            study.relative(run): pd.Series(curve["losses"], index=pd.MultiIndex.from_tuples(curve["positions"]))
            for run in variant.counting
            if (curve := (run.position_losses or {}).get("last")) and curve["positions"]
        }
        table = pd.concat(columns, axis=1, join="inner") if columns else pd.DataFrame()
        table = table[np.isfinite(table.to_numpy()).all(axis=1)] if len(table) else table
        if len(table):
            found[variant.name] = table
    if not found:
        reason = f"Left out: no finished run keeps {POSITION_FILE} (tasks without a loss at every position have none)."
        return Section("positions", "Loss by position in the context", [reason])
    lines = []
    for name, table in found.items():
        places = np.array([(first + last) / 2 for first, last in table.index])
        mean, low, high = (table.agg(how, axis=1).to_numpy() for how in ("mean", "min", "max"))
        lines.append(Curve(name, places, mean, low, high, name == study.base))
    figure = figures.curves(
        name=f"{study.key}-positions",
        title="Validation loss by position in the context",
        curves=lines,
        x_label="position in the sequence (tokens)",
        y_label="validation loss (nats)",
        log_x=True,
        zoom=False,
        note=_BAND,
    )
    bins = sorted({ends for table in found.values() for ends in table.index})
    rows = []
    means = {name: table.mean(axis=1).to_dict() for name, table in found.items()}
    sources = {name: f"last, {POSITION_FILE} in {', '.join(table.columns)}" for name, table in found.items()}
    for first, last in bins:
        of_bin = [
            number(means.get(variant.name, {}).get((first, last)), sources.get(variant.name, ""))
            for variant in study.variants
        ]
        rows.append([words(str(first) if first == last else f"{first}–{last}"), *of_bin])
    numbers = Table(
        "positions",
        "Loss by position, numbers",
        ["positions", *(variant.name for variant in study.variants)],
        rows,
        note="Means over the seeds of the last validation, in nats.",
        folded=True,
    )
    return Section("positions", "Loss by position in the context", (), [figure, numbers])


def recall_section(study: Study) -> Section | None:
    """Accuracy by distance, for synthetic tasks alone."""
    names = sorted({name for _, run in study.runs for name in run.metrics if _DISTANCE.fullmatch(name)})
    if not names:
        return None
    ends = {name: tuple(map(int, match.groups())) for name in names if (match := _DISTANCE.fullmatch(name))}
    names.sort(key=lambda name: ends[name])
    lines = []
    for variant in study.variants:
        points = []
        for name in names:
            values = [value for _, value in finite(variant, lambda run, of=name: run.last(of))]  # type: ignore[misc]
            if values:
                points.append((sum(ends[name]) / 2, np.mean(values), min(values), max(values)))
        if points:
            places, mean, low, high = np.array(points).T
            lines.append(Curve(variant.name, places, mean, low, high, variant.name == study.base))
    chance = _chance(study)
    blocks: list[Table | Figure] = []
    if lines:
        blocks.append(
            figures.curves(
                name=f"{study.key}-recall",
                title="Recall accuracy by distance",
                curves=lines,
                x_label="distance from the information to the question (tokens)",
                y_label="accuracy of the answers",
                mode="max",
                log_x=min(line.x[0] for line in lines) > 0,
                level=None if chance is None else ("guessing", chance),
                zoom=False,
                note=_BAND,
            )
        )
    rows = [
        [
            words(f"{first}–{last}" if first != last else str(first)),
            *(
                spread_cell(
                    study,
                    variant,
                    lambda run, of=name: run.last(of),  # type: ignore[misc]
                    f"the last value of {METRICS_FILE}, column {name}",
                )
                for variant in study.variants
            ),
        ]
        for name, (first, last) in ends.items()
    ]
    rows = sorted(rows, key=lambda row: int(row[0].text.split("–")[0]))
    if chance is not None:
        rows.append([words("guessing"), *(number(chance, "config.yaml, data.task") for _ in study.variants)])
    note = "Final values, means over seeds with 95 % t intervals of the variant's own seeds."
    table = Table(
        "recall", "Accuracy by distance in tokens", ["distance", *(v.name for v in study.variants)], rows, note=note
    )
    return Section("recall", "Recall accuracy by distance", (), [*blocks, table])


def _chance(study: Study) -> float | None:
    """The accuracy of guessing, where all runs have the same task of ours."""
    from gecko_lab.data import synthetic

    found = set()
    for variant in study.variants:
        tree: dict[str, Any] = next((run.tree for run in variant.runs if run.tree), {})
        data = tree.get("data") if isinstance(tree.get("data"), dict) else {}
        task = (data or {}).get("evaluation_task") or (data or {}).get("task")
        if not isinstance(task, dict):
            continue
        cls = getattr(synthetic, str(task.get("class_path", "")).rsplit(".", 1)[-1], None)
        if not (isinstance(cls, type) and issubclass(cls, synthetic.SyntheticTask)):
            return None
        try:
            found.add(float(cls(**(task.get("init_args") or {})).chance))
        except (TypeError, ValueError):
            return None
    return found.pop() if len(found) == 1 else None


def cost_section(study: Study) -> Section:
    """Speed, memory, energy, time."""
    columns: list[tuple[str, Callable[[RunData], float | None], str, Callable[..., Cell]]] = [
        (
            "tokens per second",
            functools.partial(_median, metric="tokens_per_second"),
            "median of column tokens_per_second",
            scaled,
        ),
        (
            "model FLOP/s",
            functools.partial(_median, metric="model_flops_per_second"),
            "median of model_flops_per_second",
            scaled,
        ),
        ("waiting for data", functools.partial(_median, metric="loader_wait"), "median of column loader_wait", _share),
        ("peak memory", lambda run: run.best("peak_memory_bytes", "max"), "most of column peak_memory_bytes", _bytes),
        ("hours of training", _training_hours, "columns tokens and tokens_per_second", _rough),
        ("hours in all", _all_hours, "run.json, progress.seconds", _rough),
    ]
    energy = sorted({name for _, run in study.runs for name in run.metrics if name.startswith("energy")})
    columns += [
        (name, functools.partial(_last, metric=name), f"last value of column {name}", _rough) for name in energy
    ]
    rows = [
        [words(v.name), *(_mean(study, v, value, what, form) for _, value, what, form in columns)]
        for v in study.variants
    ]
    kept = [i for i in range(len(columns)) if any(row[i + 1].value is not None for row in rows)]
    missing = [columns[i][0] for i in range(len(columns)) if i not in kept]
    paragraphs = [f"Left out, because no finished run has logged it: {', '.join(missing)}."] if missing else []
    if not energy:
        paragraphs.append("Energy is left out: no run has logged any.")
    table = Table(
        "speed",
        "Throughput, memory and time",
        ["variant", *(columns[i][0] for i in kept)],
        [[row[0], *(row[i + 1] for i in kept)] for row in rows],
        note="Means over the finished runs; they depend on the machines, see Environment.",
    )
    return Section("speed", "Throughput, memory, energy", paragraphs, [table] if kept else [])


def _mean(
    study: Study, variant: Variant, value: Callable[[RunData], float | None], what: str, form: Callable[..., Cell]
) -> Cell:
    found = finite(variant, value)
    if not found:
        return Cell("–")
    folders = ", ".join(study.relative(run) for run, _ in found)
    where = what if "run.json" in what else f"{METRICS_FILE}, {what},"
    mean = spread(one for _, one in found).mean
    return form(mean, source=f"mean of {where} in {folders}")


def _bytes(value: float, source: str) -> Cell:
    return scaled(value, "B", source)


def _share(value: float, source: str) -> Cell:
    return Cell(f"{100 * value:.2g} %", value, source)


def _rough(value: float, source: str) -> Cell:
    return number(value, source, digits=3)


def _last(run: RunData, metric: str) -> float | None:
    return run.last(metric)


def _median(run: RunData, metric: str) -> float | None:
    _, values = run.series(metric)
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None


def _training_hours(run: RunData) -> float | None:
    return None if run.training_clock is None else float(run.training_clock[1][-1])


def _all_hours(run: RunData) -> float | None:
    seconds = run.progress.get("seconds")
    return None if seconds is None else seconds / 3600
