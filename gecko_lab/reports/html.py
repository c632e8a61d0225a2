"""A report as one HTML file that needs nothing beside it."""

from __future__ import annotations

from importlib import resources
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gecko_lab.reports.document import Cell, Figure, Report
from gecko_lab.reports.svg import svg_of

_LONG = 40  # characters of a cell that a narrow page gives room


def as_html(report: Report) -> str:
    """The page: styles and pictures inline, no scripts, everything else escaped."""
    environment = Environment(
        loader=PackageLoader("gecko_lab.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    css = resources.files("gecko_lab.reports").joinpath("templates/report.css").read_text(encoding="utf-8")
    template = environment.get_template("report.html.j2")
    page = template.render(report=report, css=Markup(css), entry=_entry, picture=_picture)
    return page.encode("utf-8", errors="replace").decode("utf-8")


def _picture(figure: Figure) -> Markup:
    return Markup(svg_of(figure))


def _entry(cell: Cell, first: bool) -> Markup:
    """A `td`, or the `th` of a row."""
    kind = "number" if cell.value is not None else "words"
    length = "long" if len(cell.text) > _LONG else ""
    classes = " ".join(word for word in (kind, length, cell.tone) if word)
    source = f"{cell.source}; exactly {cell.value!r}" if cell.value is not None and cell.source else cell.source
    title = Markup(' title="{}"').format(source) if source else Markup("")
    text = (
        Markup('<a href="{}">{}</a>').format(quote(cell.link), cell.text)
        if cell.link
        else Markup("{}").format(cell.text)
    )
    if first:
        return Markup('<th scope="row"{}>{}</th>').format(title, text)
    return Markup('<td class="{}"{}>{}</td>').format(classes, title, text)
