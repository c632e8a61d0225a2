"""What `gpu_check` found, in one table: at most 100 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gecko_lab.bench.table import WIDTH, check_text, plain_table, ratio_of_times, share, spread

_COLUMNS = (("", 28), ("forward", 20), ("roof", 6), ("forward + backward", 20), ("roof", 6), ("×", 6), ("GiB", 6))


def show(found: dict[str, Any]) -> None:
    """Print all of it, the table last."""
    console = Console(width=WIDTH, highlight=False)
    for name in found["tests"]["failed"]:
        console.print(Text(f"FAILED {name}", style="red"))
    for name, stage in found["kernels"].items():
        for line in faults(name, stage):
            console.print(Text(line, style="red"))
    for line in _layer_faults(found["layer"]):
        console.print(Text(line, style="red"))
    console.print(measurements(found))
    tests = found["tests"]
    text = f"tests: {tests['passed']} passed, {len(tests['failed'])} failed, {tests['skipped']} skipped"
    console.print(Text(text + (f"; {tests['failure']}" if tests["failure"] else "")))
    machine = next((one["machine"] for one in _results(found)), None)
    if machine is not None:
        console.print(
            Text(
                f"{machine['name']}, torch {machine['torch']}, commit {machine['commit'] or 'unknown'}; at best: copy "
                f"{machine['copy_bytes_per_second'] / 1e12:.2f} TB/s, product "
                f"{machine['matmul_flops_per_second'] / 1e12:,.0f} TFLOP/s"
            )
        )
    console.print(Text("all green" if all_green(found) else "NOT all green", style="bold"))


def all_green(found: dict[str, Any]) -> bool:
    """Whether every test passed and every measurement was right and came to an end."""
    tests = found["tests"]
    sound = tests["failure"] is None and not tests["failed"] and tests["passed"] > 0
    wrong = [line for name, stage in found["kernels"].items() for line in faults(name, stage)]
    return sound and not wrong and not _layer_faults(found["layer"])


def faults(name: str, stage: dict[str, Any]) -> list[str]:
    """What is wrong with an operation's benchmark."""
    if stage["result"] is None:
        return [f"{name}: {stage['failure']}"]
    checks = [case["check"] for case in stage["result"]["cases"]]
    return [
        f"{name}, {contender}: {check_text(verdict)}"
        for check in checks
        for contender, verdict in check.items()
        if not verdict["green"]
    ]


def measurements(found: dict[str, Any]) -> Table:
    """Kernels and layers in rows; ×: time forward + backward over that of the first row of its kind."""
    table = plain_table(_COLUMNS)
    table.columns[0].no_wrap = False
    for name, stage in found["kernels"].items():
        for problem in (p for case in (stage["result"] or {"cases": []})["cases"] for p in case["problems"]):
            table.add_row(Text(f"{name} {problem['description']}", style="bold"))
            _add(table, problem["contenders"], "limit")
    layer = found["layer"]["result"]
    if layer is not None:
        table.add_row(Text(f"layer {layer['description']}", style="bold"))
        _add(table, layer["layers"], "peak_share")
    return table


def _add(table: Table, rows: list[dict[str, Any]], limit: str) -> None:
    for row in rows:
        forward, both = row["forward"], row["forward_backward"]
        first = rows[0]["forward_backward"]["seconds"]
        peak = both["bytes"]
        table.add_row(
            f"  {row['name']}",
            spread(forward["seconds"]),
            share(forward[limit]),
            spread(both["seconds"]),
            share(both[limit]),
            "" if row is rows[0] else ratio_of_times(both["seconds"], first),
            "" if peak is None else f"{peak / 2**30:.2f}",
        )


def _layer_faults(stage: dict[str, Any]) -> list[str]:
    if stage["result"] is None:
        return [f"layer: {stage['failure']}"]
    return [
        f"{name}: WRONG, no speed: "
        + ", ".join(f"{key} by {error:.0e} (limit {of['limit']:.0e})" for key, error in of["errors"].items())
        for name, of in stage["result"]["check"].items()
        if not of["green"]
    ]


def _results(found: dict[str, Any]) -> list[dict[str, Any]]:
    stages = [*found["kernels"].values(), found["layer"]]
    return [stage["result"] for stage in stages if stage["result"] is not None]
