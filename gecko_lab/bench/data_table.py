"""The result of `gecko-lab bench data`, to read: at most 100 columns."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gecko_lab.bench.table import WIDTH, busy, spread

_COLUMNS = (("workers", 8), ("loader", 12), ("million tokens/s", 26), ("ratio", 8), ("GB/s", 8), ("first batch", 28))
_BYTES_WRITTEN = 8  # a token as int64


def show(result: dict[str, Any]) -> None:
    """Print what `gecko-lab bench data --json` holds."""
    console = Console(width=WIDTH, highlight=False)
    shape = f"{result['batch_size']} × {result['sequence_length']:,}"
    corpus = result["corpus"]
    console.print(Text(f"\nBatches of {shape} tokens, shuffled, from {corpus['tokens']:,} on disk", style="bold"))
    for loader in result["loaders"]:
        for name, verdict in loader["check"].items():
            style = "green" if verdict["green"] else "red"
            console.print(Text(f"  {name}, {loader['num_workers']} workers: {check_text(verdict)}", style=style))
    if any(loader["readers"] for loader in result["loaders"]):
        console.print()
        console.print(reading_table(result))
    if result["training"] is not None:
        console.print(Text("\nTraining", style="bold"))
        console.print(Text(f"  {training_text(result['training'])}"))
    console.print()
    for bar in result["bars"]:
        console.print(Text(bar_text(bar), style="green" if bar["met"] else "red"))
    console.print()
    for line in notes(result):
        console.print(Text(line))


def check_text(verdict: dict[str, Any]) -> str:
    """What the pass held, or why there is no speed."""
    if verdict["green"]:
        return f"right, all of {verdict['sequences']:,} sequences once"
    off = f"{verdict['missing']:,} of {verdict['sequences']:,} sequences missing, {verdict['wrong']:,} wrong"
    return f"WRONG, no speed: {verdict['failure'] or off}"


def reading_table(result: dict[str, Any]) -> Table:
    """Loaders in rows; the ratio is our speed over LitData's."""
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False, pad_edge=False)
    for name, width in _COLUMNS:
        table.add_column(name, justify="left" if name == "loader" else "right", width=width, no_wrap=True)
    bytes_per_token = _BYTES_WRITTEN + (2 if result["corpus"]["token_dtype"] == "uint16" else 4)
    for loader in result["loaders"]:
        for row, (name, reader) in enumerate(loader["readers"].items()):
            speed = reader["tokens_per_second"]
            ends = "–".join(f"{speed[key] / 1e6:.1f}" for key in ("min", "max"))
            table.add_row(
                str(loader["num_workers"]) if row == 0 else "",
                f"  {name}",
                f"{speed['median'] / 1e6:.1f} ({ends})",
                f"{loader['ratio']:.2f}" if row == 0 and loader["ratio"] is not None else "",
                f"{speed['median'] * bytes_per_token / 1e9:.2f}",
                spread(reader["first_batch_seconds"]),
            )
    return table


def training_text(training: dict[str, Any]) -> str:
    """`15m, 1 × 2,048, chunk 128: 3 steps in 9.3 s, of which 1.2 ms (0.013%) waiting`."""
    return (
        f"gecko {training['size']}, {training['batch_size']} × {training['sequence_length']:,}, "
        f"chunk {training['chunk_size']}: {training['steps']} steps in {training['seconds']:.1f} s, "
        f"of which {training['seconds_waited'] * 1e3:.1f} ms ({training['waiting']:.3%}) waiting"
    )


def bar_text(bar: dict[str, Any]) -> str:
    """What must hold, and whether it does."""
    if bar["of"] == "ratio":
        what = f"at least {bar['limit']:.1f} × LitData's speed with 0 workers: {bar['value']:.2f} ×"
    else:
        what = f"training waits for the loader less than {bar['limit']:.0%} of the time: {bar['value']:.3%}"
    return f"{'met' if bar['met'] else 'MISSED'}: {what}"


def notes(result: dict[str, Any]) -> list[str]:
    """What the numbers mean and where they come from."""
    of, corpus = result["machine"], result["corpus"]
    return [
        f"Medians of {result['rounds']} interleaved rounds (least–most); tokens: targets, all batches but the first.",
        "ratio: our speed over LitData's. GB/s: a token read as stored and written as int64.",
        "first batch: from nothing open, but checksums known. LitData's batches are made int64 by `.long()`.",
        f"{corpus['chunks']} files of together {corpus['bytes'] / 2**20:.0f} MiB, in the system's cache",
        f"{of['name']}, {of['cores']} cores, {of['threads']} threads, torch {of['torch']}, "
        f"commit {of['commit'] or 'unknown'}",
        f"At best: copy {of['copy_bytes_per_second'] / 1e9:.1f} GB/s",
        f"Again: {result['command']}",
        *busy(of),
    ]
