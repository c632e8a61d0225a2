"""The result of `gecko-lab bench decode`, to read: at most 100 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gecko_lab.bench.table import WIDTH, notes_on_machine, plain_table, ratio_of_times, spread
from gecko_lab.bench.train_table import check_text, failures

_COLUMNS = (("", 16), ("seconds", 24), ("tokens/s", 12), ("×", 7), ("state, MiB", 14))


def show(result: dict[str, Any]) -> None:
    """Print what `gecko-lab bench decode --json` holds."""
    console = Console(width=WIDTH, highlight=False)
    console.print(
        Text(f"\nDecoding, {result['precision']}, {result['vocab_size']:,} tokens in the vocabulary", style="bold")
    )
    for name, verdict in result["check"].items():
        style = "green" if verdict["green"] else "red"
        console.print(Text(f"  {name}: {check_text(verdict)}", style=style))
    console.print()
    for model in result["models"]:
        console.print(Text(f"  {model['name']}: {model['description']}; {model['parameters']:,} parameters"))
    if result["models"]:
        for one in result["positions"]:
            console.print(
                Text(f"\nposition {one['position']:,}, batch {one['batch_size']}: {result['tokens']} tokens each")
            )
            console.print(speed_table(one["models"]))
            for line in failures(one["models"]):
                console.print(Text(line))
        for one in result["prefills"]:
            console.print(Text(f"\na prompt of {result['prefill']:,} tokens in pieces of {one['piece']:,}"))
            console.print(speed_table(one["models"]))
        console.print(Text("\nTokens/s at the last position over those at the first"))
        for one in result["constancy"]:
            value = "–" if one["ratio"] is None else f"{one['ratio']:.3f}"
            console.print(Text(f"  {one['name']}, batch {one['batch_size']}: {value}"))
    console.print()
    for text in (*result["remarks"], *notes(result)):
        console.print(Text(text))


def speed_table(rows: list[dict[str, Any]]) -> Table:
    """Models in rows; a ratio is the model's time over the first one's."""
    table = plain_table(_COLUMNS)
    for row in rows:
        stored = row.get("state_bytes")
        size = "" if stored is None else f"{stored / 2**20:,.1f}"
        if row["seconds"] is None:
            table.add_row(row["name"], "–", "", "", "")
            continue
        times = "" if row is rows[0] else ratio_of_times(row["seconds"], rows[0]["seconds"])
        table.add_row(row["name"], spread(row["seconds"]), f"{row['tokens_per_second']['median']:,.0f}", times, size)
    return table


def notes(result: dict[str, Any]) -> list[str]:
    """What the numbers mean and where they come from."""
    rows = [row for one in result["positions"] for row in one["models"]]
    replayed = dict.fromkeys(row["name"] for row in rows if row.get("cuda_graph"))
    return [
        f"Medians of {result['rounds']} interleaved rounds (least–most). ×: time over the first row's, by round.",
        "Positions are rounded down to where a chunk begins. Ours read a few chunks and are then told to",
        "stand there; a cache of keys and values is filled with random numbers.",
        *([f"CUDA graphs, and a copy of the state a sample: {', '.join(replayed)}."] if replayed else []),
        *notes_on_machine(result),
    ]
