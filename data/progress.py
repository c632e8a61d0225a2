"""How far preparing has come, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_SECONDS = 10.0


@contextmanager
def preparing_progress(num_bytes: int, enabled: bool) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of (bytes read, tokens written) that shows them: a bar, or lines where stderr is no terminal.

    Arguments:
        num_bytes: that there are to read.
        enabled: show anything.
    """
    if not enabled:
        yield lambda bytes_read, num_tokens: None
    elif sys.stderr.isatty():
        with _bar(num_bytes) as show:
            yield show
    else:
        yield _lines(num_bytes)


def _lines(num_bytes: int) -> Callable[[int, int], None]:
    started = last = time.monotonic()

    def show(bytes_read: int, num_tokens: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _LINE_SECONDS:
            last = now
            share = f" ({bytes_read / num_bytes:.0%} of {num_bytes / 1e6:,.0f} MB)" if num_bytes else ""
            rate = num_tokens / 1e6 / (now - started)
            print(
                f"preparing: {num_tokens / 1e6:,.1f}M tokens{share}, {rate:.2f}M tokens/s", file=sys.stderr, flush=True
            )

    return show


@contextmanager
def _bar(num_bytes: int) -> Iterator[Callable[[int, int], None]]:
    from rich import progress
    from rich.console import Console

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TextColumn("{task.fields[tokens]:.1f}M tokens, {task.fields[rate]:.2f}M tokens/s"),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("preparing", total=num_bytes or None, tokens=0.0, rate=0.0)
        started = time.monotonic()

        def show(bytes_read: int, num_tokens: int) -> None:
            seconds = max(time.monotonic() - started, 1e-6)
            bar.update(task, completed=bytes_read, tokens=num_tokens / 1e6, rate=num_tokens / 1e6 / seconds)

        yield show
