"""The result of a benchmark, to read: at most 100 columns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

WIDTH = 100
_COLUMNS = (
    ("", 24),
    ("forward", 19),
    ("×", 4),
    ("roof", 4),
    ("forward + backward", 19),
    ("×", 4),
    ("roof", 4),
    ("MiB", 5),
    ("both", 4),
    ("×", 4),
)
_UNITS = ((1e6, "µs"), (1e3, "ms"), (1.0, "s"))


def show(result: dict[str, Any]) -> None:
    """Print what `gecko-lab bench kernels --json` holds."""
    console = Console(width=WIDTH, highlight=False)
    for case in result["cases"]:
        _show_case(console, case)
    console.print()
    for line in notes(result):
        console.print(Text(line))


def _show_case(console: Console, case: dict[str, Any]) -> None:
    console.print(Text(f"\n{case['name']}: {case['title']}", style="bold"))
    for contender, verdict in case["check"].items():
        style = "green" if verdict["green"] else "red"
        console.print(Text(f"  {contender}: {check_text(verdict)}", style=style))
    for problem in case["problems"]:
        console.print(Text(f"\n{problem['description']}"))
        console.print(problem_table(problem))


def check_text(verdict: dict[str, Any]) -> str:
    """The errors, or why a check is red: what was raised, or the errors above their limits."""
    errors, limits = verdict["errors"], verdict["limits"]
    if verdict["green"]:
        gradients = max(error for name, error in errors.items() if name != "y")
        return f"right, output to {errors['y']:.0e}, gradients to {gradients:.0e}"
    off = [
        f"{name} by {errors[name]:.0e} (limit {limits[name]:.0e})"
        for name in errors
        if not errors[name] <= limits[name]
    ]
    return f"WRONG, no speed: {verdict['failure'] or ', '.join(off)}"


def problem_table(problem: dict[str, Any]) -> Table:
    """Contenders in rows; a ratio is the contender's over ours, which stands first."""
    table = plain_table(_COLUMNS)
    ours = problem["contenders"][0]
    for row in problem["contenders"]:
        cells = [row["name"] if row["same"] else f"({row['name']})"]
        for key in ("forward", "forward_backward"):
            seconds = row[key]["seconds"]
            cells += [spread(seconds), "" if row is ours else ratio_of_times(seconds, ours[key]["seconds"])]
            cells.append(share(row[key]["limit"]))
        peaks = [row[key]["bytes"] for key in ("forward", "forward_backward")]
        cells += [mebibytes(peak) for peak in peaks]
        cells.append("" if row is ours else ratio(peaks[1], ours["forward_backward"]["bytes"]))
        table.add_row(*cells)
    return table


def plain_table(columns: Sequence[tuple[str, int]]) -> Table:
    """A table of columns by title and width; the one without a title is on the left."""
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    for name, width in columns:
        table.add_column(name, justify="right" if name else "left", width=width, no_wrap=True)
    return table


def ratio_of_times(seconds: dict[str, Any], first: dict[str, Any] | None) -> str:
    """As `ratio`: the median over the rounds, since what slows a machine for a while slows all of a round."""
    if first is None:
        return ""
    pairs = zip(seconds["samples"], first["samples"], strict=True)
    return ratio(statistics.median(one / other for one, other in pairs), 1.0)


def ratio(value: float | None, least: float | None) -> str:
    """`1.27`, `12.7`, `127`, `13k`: at most 4 characters; nothing where a number is missing."""
    return fitted(value / least, 4, 2) if value and least else ""


def share(value: float | None) -> str:
    """`7.5%`, `75%`: at most 4 characters; nothing where it is not known."""
    return "" if value is None else f"{fitted(100 * value, 3, 1)}%"


def mebibytes(number: int | None) -> str:
    """`83`; `12G` or `3T` where four figures do not hold it."""
    if number is None:
        return "–"
    scale, suffix = (20, "") if number < 9999 * 2**20 else (30, "G") if number < 999 * 2**30 else (40, "T")
    return f"{number / 2**scale:.0f}{suffix}"


def spread(seconds: dict[str, float]) -> str:
    """`12.3 ms (11.9–14.0)`, the median and the ends: at most 19 characters, and so whole or in a coarser unit."""
    values = [seconds[key] for key in ("median", "min", "max")]
    finest = 2 if values[0] >= 10 else 1 if values[0] >= 1e-3 else 0
    texts = []
    for scale, unit in _UNITS[finest:]:
        for decimals in (1, 0):
            median, least, most = (f"{value * scale:.{decimals}f}" for value in values)
            texts.append(f"{median} {unit} ({least}–{most})")
    return next((text for text in texts if len(text) <= 19), texts[-1])


def fitted(value: float, width: int, decimals: int) -> str:
    """A number in at most `width` characters: with as many decimals as there is room for, or in thousands and more."""
    texts = [
        f"{value / scale:.{digits}f}{suffix}"
        for scale, suffix in ((1.0, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"))
        for digits in range(decimals, -1, -1)
    ]
    return next((text for text in texts if len(text) <= width), texts[-1])


def notes(result: dict[str, Any]) -> list[str]:
    """What the numbers mean and where they come from."""
    return [
        f"Medians of {result['rounds']} interleaved rounds (least–most). ×: over ours, the first row; time by round.",
        "roof: the least time to move every argument and gradient once, or to multiply, over the time.",
        "MiB: peak above the inputs, forward, then forward + backward. (In parentheses): another function.",
        *notes_on_machine(result),
    ]


def notes_on_machine(result: dict[str, Any]) -> list[str]:
    """What it was measured on, how, and how to repeat it."""
    of = result["machine"]
    precision = result.get("dtype") or result["precision"]
    return [
        f"{of['name']}, {of['cores']} cores, {of['threads']} threads, {precision}, torch {of['torch']}, "
        f"commit {of['commit'] or 'unknown'}",
        f"At best: copy {of['copy_bytes_per_second'] / 1e9:.1f} GB/s, "
        f"matrix product {of['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s",
        f"Again: {result['command']}",
        *busy(of),
    ]


def busy(of: dict[str, Any]) -> list[str]:
    """A warning where other programs take part of the machine that was measured."""
    load = of["load_average"]
    if load is None or load + of["threads"] <= of["cores"] + 0.5:
        return []
    return [
        f"The machine was busy (load {load:.1f} at the start): threads that wait for a core distort even ratios. "
        "Repeat when it is idle, or with fewer --threads."
    ]
