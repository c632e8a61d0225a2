"""What a report consists of, whatever file it is written into: every format shows these and nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One entry of a table.

    Attributes:
        text: what is shown, in every format.
        value: behind the text, at full precision; none for words.
        source: where it comes from: run folders, file, column.
        link: a path from the report to where it comes from.
        tone: `good`, `bad` or nothing; the text says the same in words.
    """

    text: str
    value: float | None = None
    source: str = ""
    link: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names its rows.

    Attributes:
        name: short, unique in a section.
        title: what it shows.
        columns: their heads.
        rows: as long as `columns` each.
        note: how to read it.
        folded: long, and shown when asked for.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    folded: bool = False

    def is_number(self, column: int) -> bool:
        """Whether a column holds numbers."""
        return any(row[column].value is not None for row in self.rows)


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        name: short, unique in a section.
        title: what it shows.
        description: what there is to see, for who cannot.
        draw: makes the picture, a matplotlib figure; called by the formats that show it.
        note: how to read it.
    """

    name: str
    title: str
    description: str
    draw: Callable[[], Any]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: short, unique in a study.
        title: its head.
        paragraphs: sentences before its tables and figures.
        blocks: its tables and figures, in order.
        commands: to type in, after them.
    """

    name: str
    title: str
    paragraphs: Sequence[str] = ()
    blocks: Sequence[Table | Figure] = ()
    commands: Sequence[str] = ()

    @property
    def tables(self) -> list[Table]:
        """Its tables."""
        return [block for block in self.blocks if isinstance(block, Table)]


@dataclass(frozen=True)
class Chapter:
    """What a report says about one study."""

    name: str
    question: str
    sections: Sequence[Section]


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: of the whole.
        written: when and with what, in words.
        chapters: one for each study.
    """

    title: str
    written: str
    chapters: Sequence[Chapter] = field(default_factory=tuple)


def words(text: object, source: str = "", link: str = "", tone: str = "") -> Cell:
    """A cell without a number."""
    return Cell(str(text), None, source, link, tone)


def number(value: float | None, source: str = "", link: str = "", digits: int = 5) -> Cell:
    """A cell with a number of so many significant digits; a dash where there is none."""
    return Cell("–") if value is None else Cell(shown(value, digits), value, source, link)


def whole(value: float | None, source: str = "", link: str = "") -> Cell:
    """A cell with a whole number, all its digits."""
    return Cell("–") if value is None else Cell(f"{value:,.0f}", value, source, link)


def scaled(value: float | None, unit: str = "", source: str = "", link: str = "") -> Cell:
    """A cell with a large number: `1.23M`."""
    if value is None:
        return Cell("–")
    for factor, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return Cell(f"{value / factor:.3g} {letter}{unit}".rstrip(), value, source, link)
    return Cell(f"{value:.3g} {unit}".rstrip(), value, source, link)


def shown(value: float, digits: int = 5) -> str:
    """A number of so many significant digits, trailing zeros kept: `3.0410`."""
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite" if value > 0 else "−infinite"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 9:
        return f"{value:.{digits - 1}e}".replace("-", "−")
    return f"{value:,.{max(digits - 1 - exponent, 0)}f}".replace("-", "−")


def with_interval(mean: float, low: float, high: float) -> str:
    """`3.0410 [3.0322, 3.0498]`, with two significant digits of half the interval; the mean alone without one."""
    half = (high - low) / 2
    if not math.isfinite(half) or half <= 0:
        return shown(mean)
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 8)
    return f"{mean:,.{decimals}f} [{low:,.{decimals}f}, {high:,.{decimals}f}]".replace("-", "−")
