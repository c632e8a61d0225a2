"""The pictures of a report: told apart by marker and line as well as by colour, labelled where they end."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gecko_lab.reports.document import Figure, shown
from gecko_lab.reports.run_data import Numbers
from gecko_lab.reports.svg import plain

# Okabe and Ito's colours without yellow, which a white page swallows; the base is black.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7B52AB", "#8A8A8A")
_MARKERS = ("s", "^", "D", "v", "P", "X", "*", "o")
_LINES: tuple[Any, ...] = ("--", "-.", ":", (0, (6, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (8, 2, 2, 2)), (0, (4, 4)))
_FAINT = "#8A8A8A"
MOST_NAMED = 8
_WIDTH, _HEIGHT = 7.6, 4.0
_LONGEST_LABEL = 34


@dataclass(frozen=True)
class Curve:
    """A line with a band.

    Attributes:
        name: of the variant.
        x: float64 `[N]`.
        mean: over seeds, `[N]`.
        low, high: least and most over seeds, `[N]`.
        is_base: drawn as the one that others are compared with.
    """

    name: str
    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers
    is_base: bool = False


def curves(
    *,
    name: str,
    title: str,
    curves: Sequence[Curve],
    x_label: str,
    y_label: str,
    mode: str = "min",
    log_x: bool = False,
    level: tuple[str, float] | None = None,
    zoom: bool = True,
    note: str = "",
) -> Figure:
    """Lines with bands over seeds.

    Args:
        name, title, note: of the figure.
        curves: what is drawn; of many the base and those that end best and worst are named, the others faint.
        x_label, y_label: with units.
        mode: which end is best.
        log_x: of the horizontal axis.
        level: a line to compare with: its name and value.
        zoom: leave the first tenth out of the vertical range, in which losses fall from far above.
    """
    named = _named(curves, mode)
    draw = functools.partial(
        _draw_curves, curves, named=named, x_label=x_label, y_label=y_label, log_x=log_x, level=level, zoom=zoom
    )
    hidden = len(curves) - len(named)
    more = f" Of {len(curves)} variants {len(named)} are named; the faint lines are the others." if hidden else ""
    return Figure(name, title, _describe(curves, named, x_label, y_label), draw, note + more)


def forest(
    *, name: str, title: str, rows: Sequence[tuple[str, float, float, float, bool]], metric: str, unit: str, mode: str
) -> Figure:
    """Differences with their intervals, one below the other.

    Args:
        name, title: of the figure.
        rows: name, estimate, both ends of the interval, whether there is evidence of a difference.
        metric: what was measured.
        unit: of it.
        mode: which side is better.
    """
    told = [
        f"{row[0]}: {shown(row[1], 3)} from {shown(row[2], 3)} to {shown(row[3], 3)}"
        f"{', evidence of a difference' if row[4] else ''}"
        for row in rows
    ]
    description = f"Differences in {metric}, {unit or 'no unit'}. {'; '.join(told)}."
    note = "Filled: evidence of a difference (diamond: better, square: worse). Open circle: no evidence."
    draw = functools.partial(_draw_forest, rows, metric=metric, unit=unit, mode=mode)
    return Figure(name, title, description, draw, note)


def _draw_curves(
    curves: Sequence[Curve],
    *,
    named: set[str],
    x_label: str,
    y_label: str,
    log_x: bool,
    level: tuple[str, float] | None,
    zoom: bool,
) -> Any:
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import EngFormatter, FuncFormatter, NullFormatter

    canvas = Canvas(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = canvas.add_subplot()
    labels = []
    number = 0
    for curve in curves:
        if curve.name not in named:
            axes.plot(curve.x, curve.mean, color=_FAINT, linewidth=0.8, alpha=0.6, zorder=1)
            continue
        color, line, marker = ("#000000", "-", "o")
        if not curve.is_base:
            color, line, marker = _COLORS[number % 8], _LINES[number % 8], _MARKERS[number % 8]
            number += 1
        every = max(len(curve.x) // 8, 1)
        axes.plot(
            *(curve.x, curve.mean),
            color=color,
            linestyle=line,
            marker=marker,
            markersize=4.5,
            markevery=(number % every, every),
            linewidth=1.5,
        )
        axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.16, linewidth=0)
        labels.append((curve.name, curve.mean[-1], color, marker))
    if level is not None:
        axes.axhline(level[1], color=_FAINT, linestyle=(0, (2, 2)), linewidth=1)
        axes.annotate(level[0], (0.01, level[1]), xycoords=("axes fraction", "data"), va="bottom", fontsize=9)
    axes.set(xlabel=plain(x_label), ylabel=plain(y_label), xscale="log" if log_x else "linear")
    large = not log_x and max((float(curve.x[-1]) for curve in curves), default=0.0) >= 1000
    axes.xaxis.set_major_formatter(EngFormatter(sep=" ") if large else FuncFormatter(lambda x, _: f"{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if zoom:
        _zoom(axes, curves)
    axes.margins(x=0.02)
    _label(axes, labels)
    return canvas


def _draw_forest(rows: Sequence[tuple[str, float, float, float, bool]], *, metric: str, unit: str, mode: str) -> Any:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(_WIDTH, 1.1 + 0.34 * len(rows)), layout="constrained")
    axes = canvas.add_subplot()
    for place, (_, estimate, low, high, significant) in enumerate(rows):
        good = (estimate < 0) == (mode == "min")
        color = "#000000" if not significant else _COLORS[0] if good else _COLORS[1]
        axes.errorbar(
            *(estimate, place),
            xerr=[[estimate - low], [high - estimate]],
            fmt="o" if not significant else "D" if good else "s",
            color=color,
            markerfacecolor=color if significant else "none",
            capsize=3,
            linewidth=1.5,
        )
    axes.axvline(0, color="#000000", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [_short(row[0], 48) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    better = "← better" if mode == "min" else "better →"
    axes.set_xlabel(plain(f"difference in {metric}{f' ({unit})' if unit else ''}   {better}"))
    return canvas


def _named(curves: Sequence[Curve], mode: str) -> set[str]:
    """The base and those that end best and worst."""
    if len(curves) <= MOST_NAMED + 1:
        return {curve.name for curve in curves}
    others = sorted((curve for curve in curves if not curve.is_base), key=lambda curve: curve.mean[-1])
    chosen = [*others[: MOST_NAMED // 2], *others[-(MOST_NAMED // 2) :]]
    return {curve.name for curve in curves if curve.is_base} | {curve.name for curve in chosen}


def _zoom(axes: Any, curves: Sequence[Curve]) -> None:
    end = max((float(curve.x[-1]) for curve in curves), default=0.0)
    parts = []
    for curve in curves:
        late = curve.x >= 0.1 * end
        parts += [curve.low[late], curve.high[late]]
    values = np.concatenate(parts) if parts else np.empty(0)
    values = values[np.isfinite(values)]
    if len(values) and values.max() > values.min():
        room = 0.06 * (values.max() - values.min())
        axes.set_ylim(values.min() - room, values.max() + room)


def _label(axes: Any, labels: Sequence[tuple[str, float, str, str]]) -> None:
    """Names at the right end, moved apart where lines end close together."""
    bottom, top = axes.get_ylim()
    ends = sorted(labels, key=lambda label: label[1])
    heights = [min(max((label[1] - bottom) / (top - bottom), 0.0), 1.0) if top > bottom else 0.5 for label in ends]
    distance = min(0.065, 1 / max(len(ends), 1))
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + distance)
    if heights and heights[-1] > 1:  # back down
        heights[-1] = 1.0
        for i in reversed(range(len(heights) - 1)):
            heights[i] = min(heights[i], heights[i + 1] - distance)
    for (name, _, color, marker), height in zip(ends, heights, strict=True):
        axes.plot([1.03], [height], marker=marker, color=color, markersize=5, transform=axes.transAxes, clip_on=False)
        axes.annotate(_short(name, _LONGEST_LABEL), (1.055, height), xycoords="axes fraction", va="center", fontsize=9)


def _short(name: str, most: int) -> str:
    name = plain(name)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _describe(curves: Sequence[Curve], named: set[str], x_label: str, y_label: str) -> str:
    ends = [
        f"{curve.name} ends at {shown(float(curve.mean[-1]), 4)}"
        for curve in curves
        if curve.name in named and math.isfinite(curve.mean[-1])
    ]
    return f"{y_label} against {x_label}. {'; '.join(ends)}."
