"""A grid while it runs: a live table in a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table

from gecko_lab.grids.progress import RunProgress

_SHOWN = 40


class Display:
    """Shows the progress of all runs.

    Args:
        file: where to; a table is drawn where it is a terminal.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._console = Console(file=file or sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._told: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Display:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Sequence[RunProgress]) -> None:
        """Draw the table, or print what has changed."""
        if self._live is not None:
            self._live.update(live_table(progress), refresh=True)
            return
        for one in progress:
            now = (one.state, one.attempts)
            if now != self._told.get(one.run.name, ("waiting", 0)):
                self._told[one.run.name] = now
                self._console.print(line(one), soft_wrap=True, highlight=False, markup=False)


def line(one: RunProgress) -> str:
    """A run's state in a line."""
    attempt = f", attempt {one.attempts}" if one.attempts > 1 else ""
    at = f", step {one.step:,}{_of(one)}" if one.step else ""
    loss = f", loss {one.loss:.4f}" if one.loss is not None else ""
    return f"{one.run.name}: {one.state}{attempt}{at}{loss}"


def live_table(progress: Sequence[RunProgress]) -> Table:
    """Every run with state, step, loss, speed and time left; of a large grid those that something happens to."""
    over = sum(one.state == "finished" for one in progress)
    left = sum(one.seconds_left or 0 for one in progress if not one.is_over)
    slots = max(sum(one.state == "running" for one in progress), 1)
    table = Table(title=f"{over} of {len(progress)} runs finished, about {duration(left / slots)} left")
    for name in ("variant", "seed", "state"):
        table.add_column(name)
    for name in ("step", "loss", "tokens/s", "time left"):
        table.add_column(name, justify="right")
    shown = list(progress)
    if len(shown) > _SHOWN:
        rank = {"running": 0, "elsewhere": 0, "failed": 1, "interrupted": 1, "queued": 2, "waiting": 3, "finished": 4}
        keep = {one.run.name for one in sorted(shown, key=lambda one: rank[one.state])[:_SHOWN]}
        shown = [one for one in shown if one.run.name in keep]
    for one in shown:
        speed = "" if one.tokens_per_second is None or one.is_over else f"{one.tokens_per_second:,.0f}"
        table.add_row(
            one.run.variant.name,
            str(one.run.seed),
            one.state + (f" ({one.attempts})" if one.attempts > 1 else ""),
            f"{one.step:,}{_of(one)}" if one.step or one.state == "running" else "",
            "" if one.loss is None else f"{one.loss:.4f}",
            speed,
            "" if one.is_over or one.seconds_left is None else duration(one.seconds_left),
        )
    if len(shown) < len(progress):
        table.caption = f"{len(progress) - len(shown)} more"
    return table


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _of(one: RunProgress) -> str:
    return "" if one.run.variant.steps is None else f"/{one.run.variant.steps:,}"
