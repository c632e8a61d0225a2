"""The result of `gecko-lab bench train`, to read: at most 100 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gecko_lab.bench.table import WIDTH, notes_on_machine, plain_table, ratio, ratio_of_times, share, spread

_COLUMNS = (("", 16), ("step", 22), ("×", 7), ("tokens/s", 12), ("of peak", 9), ("MiB", 10), ("×", 7), ("predicted", 9))
_MEMORY_COLUMNS = (("", 16), ("tokens", 22), ("KiB a token", 14), ("last over first", 18))


def show(result: dict[str, Any]) -> None:
    """Print what `gecko-lab bench train --json` holds."""
    console = Console(width=WIDTH, highlight=False)
    title = f"A training step, {result['precision']}, {result['vocab_size']:,} tokens in the vocabulary"
    title += f", checkpoint_layers {str(result['checkpoint_layers']).lower()}" if result["checkpoint_layers"] else ""
    console.print(Text(f"\n{title}", style="bold"))
    for name, verdict in result["check"].items():
        style = "green" if verdict["green"] else "red"
        console.print(Text(f"  {name}: {check_text(verdict)}", style=style))
    console.print()
    for model in result["models"]:
        console.print(Text(f"  {model['name']}: {model['description']}; {model['parameters']:,} parameters"))
    for one in result["lengths"]:
        console.print(Text(f"\n{result['batch_size']} × {one['length']:,} tokens"))
        console.print(length_table(one["models"]))
        for line in failures(one["models"]):
            console.print(Text(line))
    if any(model["slopes"] for model in result["memory"]):
        console.print(Text("\nPeak memory of a step by token"))
        console.print(memory_table(result["memory"]))
    console.print()
    for remark in result["remarks"]:
        console.print(Text(remark))
    for text in notes(result):
        console.print(Text(text))


def check_text(verdict: dict[str, Any]) -> str:
    """The errors, or why a check is red."""
    errors, limits = verdict["errors"], verdict["limits"]
    if not verdict["green"]:
        off = [
            f"{key} by {errors[key]:.0e} (limit {limits[key]:.0e})" for key in errors if not errors[key] <= limits[key]
        ]
        return f"WRONG, no speed: {verdict['failure'] or ', '.join(off)}"
    if not errors:
        return "finite (another library's, not checked further)"
    names = {"y": "logits", "gradient": "gradient"}
    return "right, " + ", ".join(f"{names[key]} to {error:.0e}" for key, error in errors.items())


def failures(rows: list[dict[str, Any]]) -> list[str]:
    """Why models have no speed."""
    return [f"{row['name']}: not measured: {row['failure']}" for row in rows if row["failure"] is not None]


def length_table(rows: list[dict[str, Any]]) -> Table:
    """Models in rows; a ratio is the model's over the first one's."""
    table = plain_table(_COLUMNS)
    for row in rows:
        cells = [row["name"]]
        if row["seconds"] is None:
            cells += ["–", "", "", ""]
        else:
            first = None if row is rows[0] else rows[0]["seconds"]
            cells += [spread(row["seconds"]), ratio_of_times(row["seconds"], first)]
            cells += [f"{row['tokens_per_second']['median']:,.0f}", share(row["peak_share"])]
        peak = row["bytes"]
        cells += ["–" if peak is None else f"{peak / 2**20:,.0f}"]
        cells.append("" if row is rows[0] else ratio(peak, rows[0]["bytes"]))
        cells.append("" if row["predicted_bytes"] is None else f"{row['predicted_bytes'] / 2**20:,.0f}")
        table.add_row(*cells)
    return table


def memory_table(models: list[dict[str, Any]]) -> Table:
    """Slopes in rows."""
    table = plain_table(_MEMORY_COLUMNS)
    for model in models:
        for index, slope in enumerate(model["slopes"]):
            last = index == len(model["slopes"]) - 1 and model["growth"] is not None
            table.add_row(
                model["name"] if index == 0 else "",
                f"{slope['from']:,}–{slope['to']:,}",
                f"{slope['bytes_per_token'] / 2**10:.1f}",
                f"{model['growth']:.2f}" if last else "",
            )
    return table


def notes(result: dict[str, Any]) -> list[str]:
    """What the numbers mean and where they come from."""
    return [
        f"Medians of {result['rounds']} interleaved rounds (least–most) of forward, backward, clipping and AdamW.",
        "×: over the first row's; time by round.",
        "of peak: FLOPs that the model needs a second, over the measured peak.",
        "MiB: peak of a step above weights and moments; predicted: the same without computing anything",
        "(`gecko_lab.memory_account`). All but llama-own-loss have the same loss, in pieces.",
        *notes_on_machine(result),
    ]
