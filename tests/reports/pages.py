"""What a written report holds, read with the standard library alone."""

import csv
import re
from html.parser import HTMLParser
from pathlib import Path

from gecko_lab.__main__ import main

_VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """An HTML file: complains about what is not closed, and keeps what tests ask for.

    Attributes:
        mistakes: tags that are closed in the wrong order or not at all.
        ids: of all elements.
        attributes: (tag, name, value) of every attribute.
        cells: text and title of every `td` and `th`.
        text: everything to be read, outside styles.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.mistakes: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.mistakes += [f"<{tag}> is never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in _VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append(("", dict(attrs).get("title") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.mistakes.append(f"</{tag}> at line {self.getpos()[0]}, open: {self._open[-3:]}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if {"td", "th"} & set(self._open) and self.cells:
            self.cells[-1] = (self.cells[-1][0] + data, self.cells[-1][1])


def make(*words: str | Path) -> None:
    """`gecko-lab report`, which must succeed."""
    assert main(["report", *map(str, words)]) == 0


def numbers(report: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    """The rows of `report.csv`, by table, row and column; of the table of runs by run folder."""
    with report.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:
        name = row["row"]
        if row["table"] == "runs" and (match := re.match(r"(?:best|last) value .*?(\S+)/metrics\.csv", row["source"])):
            name = match[1]
        found[row["table"], name, row["column"]] = row
    return found


def column(folder: Path, name: str) -> list[float]:
    """What a run logged under a name, read by hand."""
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]
