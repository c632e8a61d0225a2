"""The files of one report: well formed, self-contained, and of the same numbers."""

import re
from pathlib import Path

import pytest

from gecko_lab.reports import latex, markdown
from gecko_lab.reports.document import Cell, Chapter, Report, Section, Table, shown, with_interval, words
from gecko_lab.reports.html import as_html
from tests.reports.conftest import HOSTILE
from tests.reports.pages import Page, numbers


@pytest.mark.parametrize("name", ["finished", "troubled"])
def test_page_is_well_formed(name: str, request: pytest.FixtureRequest) -> None:
    page = Page(request.getfixturevalue(name) / "report.html")
    assert not page.mistakes
    assert len(page.ids) == len(set(page.ids))
    targets = {value.removeprefix("#") for _, key, value in page.attributes if key == "href" and value.startswith("#")}
    targets |= set(re.findall(r"url\(#([^)]+)\)", page.source))
    assert targets <= set(page.ids)


def test_page_needs_nothing_beside_it(finished: Path) -> None:
    page = Page(finished / "report.html")
    assert not re.search(r"(https?:)?//\w|@import|@font-face|url\((?!#)", page.source)
    assert not {tag for tag, _, _ in page.attributes} & {"script", "link", "img", "iframe", "object"}
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]


def test_pictures_tell_their_content_without_being_seen(finished: Path) -> None:
    page = Page(finished / "report.html")
    labels = [value.split() for tag, name, value in page.attributes if tag == "svg" and name == "aria-labelledby"]
    assert len(labels) == page.source.count("<svg")
    assert all(set(label) <= set(page.ids) for label in labels)
    assert "memory-level-1: 0.0" in page.text, "the forest plot's description has its numbers"


def test_lines_differ_without_colour(finished: Path) -> None:
    source = Page(finished / "report.html").source
    picture = source[source.index('id="study1-curve-tokens-title"') :].split("</svg>")[0]
    assert len(set(re.findall(r"stroke-dasharray: ([\d.,]+)", picture))) >= 2
    assert len(set(re.findall(r'href="#(study1-curve-tokens-m\w+)"', picture))) >= 3, "a marker for each variant"


def test_page_fits_paper_phone_and_dark(finished: Path) -> None:
    source = Page(finished / "report.html").source
    for rule in ("@media print", "prefers-color-scheme: dark", "overflow-x: auto", 'name="viewport"'):
        assert rule in source


@pytest.mark.parametrize("name", ["finished", "troubled"])
def test_numbers_are_the_same_in_all_formats(name: str, request: pytest.FixtureRequest) -> None:
    folder: Path = request.getfixturevalue(name)
    page = Page(folder / "report.html")
    cells = {text for text, _ in page.cells}
    as_markdown = (folder / "report.md").read_text(encoding="utf-8")
    as_latex = (folder / "report.tex").read_text(encoding="utf-8")
    rows = numbers(folder / "report.csv").values()
    assert len(rows) > 50
    for row in rows:
        assert row["text"] in cells, row
        assert markdown.escaped(row["text"]) in as_markdown, row
        assert latex.escaped(row["text"]) in as_latex, row
        if row["value"] and row["source"]:
            assert any(repr(float(row["value"])) in title or row["value"] in title for text, title in page.cells), row


def test_tables_of_markdown_are_rectangular(troubled: Path) -> None:
    lines = (troubled / "report.md").read_text(encoding="utf-8").splitlines()
    table: list[int] = []
    for line in [*lines, ""]:
        if line.startswith("|"):
            table.append(len(re.findall(r"(?<!\\)\|", line)))
        else:
            assert len(set(table)) <= 1, line
            table = []


def test_latex_escapes_what_it_would_obey(troubled: Path) -> None:
    text = (troubled / "report.tex").read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert r"\textless{}script\textgreater{}" in text
    assert text.count(r"\begin{longtable}") == text.count(r"\end{longtable}") > 5
    body = re.sub(r"\\[&%$#_{}]", "", text[text.index(r"\begin{document}") :])
    assert body.count("{") == body.count("}")
    assert body.count("$") % 2 == 0


def test_text_cannot_leave_its_place(tmp_path: Path) -> None:
    evil = '"><b>x</b>\ud800\x00'
    table = Table(
        "t", evil, ["a", evil], [[words(evil), Cell(evil, 1.0, evil, "a/../" + evil.replace("\ud800", ""))]], evil
    )
    made = Report(evil, evil, [Chapter(evil, evil, [Section("s", evil, [evil], [table], [evil])])])
    (tmp_path / "r.html").write_text(as_html(made), encoding="utf-8")
    page = Page(tmp_path / "r.html")
    assert not page.mistakes
    assert ("b", "", "") not in page.attributes
    assert "<b>" not in page.source


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.04123456, "3.0412"), (0.0, "0"), (float("nan"), "not a number"), (-1.5, "−1.5000"), (1e-9, "1.0000e−09")],
)
def test_shown(value: float, text: str) -> None:
    assert shown(value) == text


def test_with_interval_rounds_by_the_interval() -> None:
    assert with_interval(3.04123, 3.0301, 3.0521) == "3.041 [3.030, 3.052]"
    assert with_interval(3.04123, float("nan"), float("nan")) == "3.0412"
