"""What runs now, on the terminal's last line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

_LINE_EVERY = 10.0
"""Seconds between lines where there is no terminal."""


@contextmanager
def display() -> Iterator[Callable[[str], None]]:
    """Give a function that shows what runs next, on stderr, and clear the line at the end.

    Nothing is drawn while something is measured: an animated bar would take part of a core.
    """
    console = Console(stderr=True)
    begin = last = time.monotonic()

    def tell(what: str) -> None:
        nonlocal last
        now = time.monotonic()
        line = f"{now - begin:4.0f} s  {what}"
        if console.is_terminal:
            console.file.write(f"\r\x1b[2K{line[: console.width - 1]}")
            console.file.flush()
        elif now - last >= _LINE_EVERY:
            last = now
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        yield tell
    finally:
        if console.is_terminal:
            console.file.write("\r\x1b[2K")
            console.file.flush()
