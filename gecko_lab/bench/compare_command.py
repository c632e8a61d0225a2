"""`--compare REV` of the benchmarks: the files as they are now and a revision take turns."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gecko_lab.bench.display import display
from gecko_lab.bench.revisions import PACKAGE, checked_out, run_in
from gecko_lab.bench.table import WIDTH, busy, plain_table, spread
from gecko_lab.bench.timing import Times
from gecko_lab.machine import commit as commit_now

_COLUMNS = (("", 42), ("now", 20), ("before", 20), ("before / now", 14))


def compare_revisions(
    verb: str, options: dict[str, Any], revision: str, rounds: int, command: str, folder: Path | None, json: bool
) -> None:
    """Run a verb once a round in each of two trees, in processes of their own; exit with 1 where a check is red.

    Args:
        verb: `kernels` or `train`.
        options: of the verb, for one round.
        revision: what git calls it.
        rounds: samples.
        command: that repeats this.
        folder: for compare.json.
        json: print JSON rather than a table.

    Raises:
        ConfigurationError: there is no such revision, or the verb does not run there.
    """
    samples: dict[str, dict[str, list[float]]] = {}
    red: list[str] = []
    machine: dict[str, Any] = {}
    with checked_out(revision) as (tree, commit), display() as tell:
        trees = {"now": PACKAGE.parent, "before": tree}
        for number in range(rounds):
            for name in list(trees) if number % 2 == 0 else reversed(list(trees)):
                tell(f"{commit if name == 'before' else name}, round {number + 1} of {rounds}")
                result = run_in(trees[name], verb, options)
                machine = machine or result["machine"]
                red += [f"{what} ({name})" for what in red_checks(result) if f"{what} ({name})" not in red]
                for what, seconds in times(verb, result).items():
                    samples.setdefault(what, {"now": [], "before": []})[name].append(seconds)
    rows = [
        {"what": what, **{name: Times(values).as_dict() for name, values in of.items()}}
        for what, of in samples.items()
        if of["now"] and of["before"]
    ]
    alone = {what: next(name for name in of if of[name]) for what, of in samples.items() if not all(of.values())}
    result = {
        "command": command,
        "now": commit_now(),
        "before": commit,
        "rounds": rounds,
        "machine": machine,
        "red": red,
        "rows": rows,
        "alone": alone,
    }
    if folder is not None:
        (folder / "compare.json").write_text(json_format.dumps(result, indent=2))
    print(json_format.dumps(result, indent=2)) if json else show(result)
    if red:
        sys.exit(1)


def red_checks(result: dict[str, Any]) -> list[str]:
    """What a result says is wrong."""
    checks = (
        [(case["name"], case["check"]) for case in result["cases"]] if "cases" in result else [("", result["check"])]
    )
    return [f"{case} {name}".strip() for case, check in checks for name, of in check.items() if not of["green"]]


def times(verb: str, result: dict[str, Any]) -> dict[str, float]:
    """Seconds of ours by what was done; medians, of one sample each."""
    if verb == "train":
        return {
            f"{row['name']}, {one['length']:,} tokens": row["seconds"]["median"]
            for one in result["lengths"]
            for row in one["models"]
            if row["seconds"] is not None
        }
    return {
        f"{case['name']} {problem['description']}: {key.replace('_', ' + ')}": problem["contenders"][0][key]["seconds"][
            "median"
        ]
        for case in result["cases"]
        for problem in case["problems"]
        for key in ("forward", "forward_backward")
    }


def show(result: dict[str, Any]) -> None:
    """Print what `--json` holds."""
    console = Console(width=WIDTH, highlight=False)
    console.print(Text(f"\nnow ({result['now'] or 'unknown'}) and before ({result['before']})", style="bold"))
    for what in result["red"]:
        console.print(Text(f"  {what}: WRONG, no speed", style="red"))
    console.print(comparison_table(result["rows"]))
    for what, name in result["alone"].items():
        console.print(Text(f"{what}: only {name}"))
    console.print(
        Text(f"\nMedians of {result['rounds']} interleaved rounds (least–most), each in a process of its own.")
    )
    console.print(Text("before / now: above 1 where it has become faster."))
    for text in (f"Again: {result['command']}", *(busy(result["machine"]) if result["machine"] else ())):
        console.print(Text(text))


def comparison_table(rows: list[dict[str, Any]]) -> Table:
    """What was timed in rows."""
    table = plain_table(_COLUMNS)
    table.columns[0].no_wrap = False
    for row in rows:
        ratio = row["before"]["median"] / row["now"]["median"]
        table.add_row(row["what"], spread(row["now"]), spread(row["before"]), f"{ratio:.2f}")
    return table
