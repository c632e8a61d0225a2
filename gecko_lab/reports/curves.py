"""Curves over seeds: what was logged against tokens, FLOPs and hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from gecko_lab.grids.budget import TRAINING_FACTOR
from gecko_lab.reports import figures
from gecko_lab.reports.document import Figure, Section
from gecko_lab.reports.figures import Curve
from gecko_lab.reports.results import unit_of
from gecko_lab.reports.run_data import Numbers, RunData
from gecko_lab.reports.study import Study, Variant

MOST_POINTS = 300
_BAND = "Lines are means over the finished runs, bands reach from the least to the most of the seeds."


def curves_section(study: Study) -> Section:
    """The metric against tokens, FLOPs and hours; the training loss against tokens."""
    paragraphs: list[str] = []
    blocks: list[Figure] = []
    axes: list[tuple[str, str, Callable[[Variant, Sequence[RunData], Numbers], Numbers | None]]] = [
        ("tokens", "tokens", _tokens),
        ("FLOPs", "FLOPs of training", _flops),
        ("hours", "hours of training", _hours),
    ]
    for what, label, place in axes:
        found = curves_of(study, study.metric, place)
        if found:
            aside = " Hours follow from tokens_per_second, validation left out." if what == "hours" else ""
            blocks.append(_draw(study, study.metric, found, f"curve-{what.lower()}", what, label, _BAND + aside))
        else:
            paragraphs.append(
                f"No curve of {study.metric} against {what}: no finished run has logged "
                f"{'it' if what == 'tokens' else 'it together with what that needs'}."
            )
    others = [name for name in ("loss/validation", "loss/train") if name != study.metric]
    for metric in others:
        found = curves_of(study, metric, _tokens)
        if found:
            name = f"curve-{metric.replace('/', '-')}"
            note = f"{_BAND} Where there are more than {MOST_POINTS} points, each is the mean of its neighbours."
            blocks.append(_draw(study, metric, found, name, "tokens", "tokens", note))
    return Section("curves", "Curves", paragraphs, blocks)


def curves_of(
    study: Study, metric: str, place: Callable[[Variant, Sequence[RunData], Numbers], Numbers | None]
) -> list[Curve]:
    """A metric of each variant over the steps that all its finished runs have logged, at most `MOST_POINTS` points.

    Args:
        study: of the variants.
        metric: as logged.
        place: from a variant, its runs and steps to the places on the horizontal axis; none where it does not know.
    """
    found = []
    for variant in study.variants:
        runs = [run for run in variant.counting if metric in run.metrics]
        table = over_seeds(runs, metric)
        if table is None:
            continue
        x = place(variant, runs, table["step"].to_numpy())
        if x is None:
            continue
        mean, low, high = (table[name].to_numpy() for name in ("mean", "low", "high"))
        found.append(Curve(variant.name, x, mean, low, high, variant.name == study.base))
    return found


def over_seeds(runs: Sequence[RunData], metric: str) -> pd.DataFrame | None:
    """Mean, least and most over runs by step: columns `step`, `mean`, `low`, `high`; none where no step is in all."""
    series = []
    for run in runs:
        steps, values = run.series(metric)
        column = pd.Series(values, index=steps)
        series.append(column[~column.index.duplicated(keep="last")])
    if not series:
        return None
    table = pd.concat(series, axis=1, join="inner").sort_index()
    table = table[np.isfinite(table.to_numpy()).all(axis=1)]
    if table.empty:
        return None
    table = thinned(table)
    values = table.to_numpy()
    return pd.DataFrame(
        {
            "step": table.index.to_numpy(dtype=float),
            "mean": values.mean(axis=1),
            "low": values.min(axis=1),
            "high": values.max(axis=1),
        }
    )


def thinned(table: pd.DataFrame, most: int = MOST_POINTS) -> pd.DataFrame:
    """At most so many rows: each the mean of as many neighbours, as is its index; the last row is kept."""
    if len(table) <= most:
        return table
    body = table.iloc[:-1]
    bins = np.arange(len(body)) * (most - 1) // len(body)
    means = body.groupby(bins).mean()
    means.index = pd.Series(body.index, dtype=float).groupby(bins).mean()
    return pd.concat([means, table.iloc[-1:]])


def _tokens(variant: Variant, runs: Sequence[RunData], steps: Numbers) -> Numbers | None:
    per_step = cost_of(variant, "tokens_per_step")
    return None if per_step is None else steps * per_step


def _flops(variant: Variant, runs: Sequence[RunData], steps: Numbers) -> Numbers | None:
    tokens, per_token = _tokens(variant, runs, steps), cost_of(variant, "flops_per_token")
    return None if tokens is None or per_token is None else TRAINING_FACTOR * per_token * tokens


def _hours(variant: Variant, runs: Sequence[RunData], steps: Numbers) -> Numbers | None:
    found = [np.interp(steps, *clock) for run in runs if (clock := run.training_clock) is not None]
    return np.mean(found, axis=0) if found else None


def cost_of(variant: Variant, name: str) -> float | None:
    """As the grid says, else as a run says."""
    known = [variant.cost, *(run.cost for run in variant.runs)]
    return next((cost[name] for cost in known if name in cost), None)


def _draw(study: Study, metric: str, found: list[Curve], name: str, what: str, label: str, note: str) -> Figure:
    unit = unit_of(metric)
    return figures.curves(
        name=f"{study.key}-{name}",
        title=f"{metric} against {what}",
        curves=found,
        x_label=label,
        y_label=f"{metric}{f' ({unit})' if unit else ''}",
        mode=study.mode,
        note=note,
    )
