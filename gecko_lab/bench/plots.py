"""The figures of benchmarks, as PNG and SVG."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

_PANEL = (5.0, 3.4)
"""Inches."""


def plot_kernels(result: dict[str, Any], folder: Path) -> None:
    """Forward + backward of every contender, a panel for each problem: `kernels.png` and `kernels.svg`."""
    problems = [problem | {"case": case["name"]} for case in result["cases"] for problem in case["problems"]]
    if not problems:
        return
    figure, panels = _panels(len(problems))
    for panel, problem in zip(panels, problems, strict=True):
        rows = list(reversed(problem["contenders"]))
        times = [row["forward_backward"]["seconds"] for row in rows]
        medians = [one["median"] * 1e3 for one in times]
        errors = [
            [(one["median"] - one["min"]) * 1e3 for one in times],
            [(one["max"] - one["median"]) * 1e3 for one in times],
        ]
        panel.barh([row["name"] for row in rows], medians, xerr=errors, color=_colours(len(rows), last_is_ours=True))
        panel.set_xscale("log")
        panel.set_title(f"{problem['case']} {problem['description']}", fontsize=8)
        panel.set_xlabel("ms, forward + backward")
        panel.tick_params(axis="y", labelsize=8)
    _write(figure, result, folder / "kernels")


def plot_training(result: dict[str, Any], folder: Path) -> None:
    """Speed and memory over the length of a sequence: `train.png` and `train.svg`."""
    drawn: list[tuple[str, Callable[[dict[str, Any]], float | None]]] = [
        ("tokens/s", lambda row: (row.get("tokens_per_second") or {}).get("median")),
        ("peak memory of a step, MiB", lambda row: None if row["bytes"] is None else row["bytes"] / 2**20),
    ]
    rows = [row for one in result["lengths"] for row in one["models"]]
    drawn = [(label, value) for label, value in drawn if any(value(row) is not None for row in rows)]
    if not drawn:
        return
    figure, panels = _panels(len(drawn))
    for panel, (label, value) in zip(panels, drawn, strict=True):
        for model in result["models"]:
            points = [
                (one["length"], value(row))
                for one in result["lengths"]
                for row in one["models"]
                if row["name"] == model["name"] and value(row) is not None
            ]
            panel.plot(*zip(*points, strict=True), marker="o", label=model["name"]) if points else None
        _logarithmic(panel, "tokens of a sequence", label)
    _write(figure, result, folder / "train")


def plot_decoding(result: dict[str, Any], folder: Path) -> None:
    """Speed over the position in the stream, a panel for each batch size: `decode.png` and `decode.svg`."""
    sizes = list(dict.fromkeys(one["batch_size"] for one in result["positions"]))
    if not sizes:
        return
    figure, panels = _panels(len(sizes))
    for panel, batch_size in zip(panels, sizes, strict=True):
        for model in result["models"]:
            points = [
                (one["position"], row["tokens_per_second"]["median"])
                for one in result["positions"]
                for row in one["models"]
                if one["batch_size"] == batch_size and row["name"] == model["name"] and row["seconds"] is not None
            ]
            panel.plot(*zip(*points, strict=True), marker="o", label=model["name"]) if points else None
        panel.set_title(f"batch {batch_size}", fontsize=8)
        _logarithmic(panel, "position", "tokens/s")
    _write(figure, result, folder / "decode")


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    columns = min(number, 2)
    rows = -(-number // columns)
    figure = Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows + 0.4), layout="constrained")
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(number)]
    return figure, axes


def _colours(number: int, last_is_ours: bool) -> list[str]:
    others = ["tab:gray"] * (number - 1)
    return [*others, "tab:blue"] if last_is_ours else ["tab:blue", *others]


def _logarithmic(panel: Axes, x: str, y: str) -> None:
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlabel(x)
    panel.set_ylabel(y)
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.yaxis.set_minor_formatter(StrMethodFormatter("{x:,.0f}"))
    panel.grid(alpha=0.3)
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8)


def _write(figure: Figure, result: dict[str, Any], path: Path) -> None:
    """Both files; what was measured on stands above, and the command below."""
    of = result["machine"]
    figure.suptitle(f"{of['name']}, torch {of['torch']}, commit {of['commit'] or 'unknown'}", fontsize=8)
    figure.supxlabel(result["command"], fontsize=7)
    for ending in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=150)
