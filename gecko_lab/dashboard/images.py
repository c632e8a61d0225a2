"""Pictures as PNG, which is what TensorBoard shows: differences, loss by position, recall by distance."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary

from gecko_lab.dashboard.event_folder import tensor_summary
from gecko_lab.reports.document import Cell, Table
from gecko_lab.reports.results import unit_of
from gecko_lab.reports.study import Study
from gecko_lab.reports.svg import plain, style
from gecko_lab.statistics import Comparison

_MARKERS = "os^DvPX*"
_MOST_NAMED = 12
_LINES = ("-", "--", "-.", ":")
_PIXELS_PER_INCH = 160


def image_summaries(study: Study, comparison: Comparison | None, tables: Mapping[str, Table]) -> list[Summary.Value]:
    """The pictures that there are results for.

    Args:
        study: what is compared.
        comparison: of its variants; none where there is none yet.
        tables: those of the report that are drawn, by name.
    """
    figures = {}
    if comparison is not None and (forest := _forest(study, comparison)) is not None:
        figures["differences"] = forest
    for name, tag, x_label, y_label in (
        ("positions", "loss_by_position", "position in the sequence (tokens)", "validation loss (nats)"),
        ("recall", "recall_by_distance", "distance from the information to the question (tokens)", "accuracy"),
    ):
        if name in tables and tables[name].rows:
            figures[tag] = _lines(tables[name], x_label, y_label)
    return [_image(tag, figure) for tag, figure in figures.items()]


def _forest(study: Study, comparison: Comparison) -> Any | None:
    """Differences to the base with their intervals, one below the other."""
    from matplotlib.figure import Figure

    rows = [row for row in comparison.table.to_dict("records") if math.isfinite(row["low"])]
    if not rows:
        return None
    with style():
        figure = Figure(figsize=(5.6, 1.2 + 0.28 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            ends = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
            axes.errorbar(
                *(row["difference"], place),
                xerr=ends,
                fmt="D" if row["significant"] else "o",
                color="black",
                markerfacecolor="black" if row["significant"] else "white",
                capsize=3,
            )
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [plain(row["variant"]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        unit = unit_of(study.metric)
        better = "← better" if study.mode == "min" else "better →"
        axes.set_xlabel(plain(f"{study.metric}{f' ({unit})' if unit else ''} minus that of the base   {better}"))
        axes.set_title(f"base: {plain(study.base)}\nfilled: evidence of a difference", fontsize=8, loc="left")
    return figure


def _lines(table: Table, x_label: str, y_label: str) -> Any:
    """A line for each column of a table whose rows are named after bins such as `16–31`; the first ones are named."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for column in range(1, len(table.columns)):
            points = [
                (_middle(row[0]), row[column].value)
                for row in table.rows
                if row[column].value is not None and _middle(row[0]) is not None
            ]
            if not points:
                continue
            if column > _MOST_NAMED:
                axes.plot(*zip(*points, strict=True), color="lightgrey", linewidth=0.8, zorder=1)
                continue
            axes.plot(
                *zip(*points, strict=True),
                linestyle=_LINES[(column - 1) % len(_LINES)],
                marker=_MARKERS[(column - 1) % len(_MARKERS)],
                markersize=4,
                label=plain(table.columns[column]),
            )
        for row in table.rows:  # such as the accuracy of guessing
            if _middle(row[0]) is None and row[1].value is not None:
                axes.axhline(row[1].value, color="grey", linestyle=(0, (2, 2)), label=plain(row[0].text))
        axes.set(xlabel=x_label, ylabel=y_label, title=plain(table.title))
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _middle(cell: Cell) -> float | None:
    """Of a bin; none where the cell names something else."""
    ends = cell.text.split("–")
    return sum(map(int, ends)) / len(ends) if all(end.isdigit() for end in ends) else None


def _image(tag: str, figure: Any) -> Summary.Value:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_PIXELS_PER_INCH)
    width, height = (round(inches * _PIXELS_PER_INCH) for inches in figure.get_size_inches())
    return tensor_summary(tag, "images", [str(width).encode(), str(height).encode(), buffer.getvalue()])
