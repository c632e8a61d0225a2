"""From a figure to an `<svg>` element that stands in a page among others."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape

from gecko_lab.reports.document import Figure

_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and copied
    "svg.hashsalt": "gecko-lab",  # equal figures are equal files
    "text.parse_math": False,  # a variant may be called $x$
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "path.simplify": True,
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@contextmanager
def style() -> Iterator[None]:
    """Matplotlib's settings, in which figures are drawn and saved."""
    import matplotlib

    with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def plain(text: str) -> str:
    """Text that may stand in a picture: control characters are replaced."""
    return _CONTROL.sub("�", text)


def svg_of(figure: Figure) -> str:
    """The figure as an `<svg>` element with a title and a description, its identifiers begun with its name.

    Black becomes the colour of the text around it, so that a dark page shows light lines; the background stays
    transparent.
    """
    buffer, name = io.StringIO(), figure.name
    with style():
        figure.draw().savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(xmlns(:xlink)?|version)="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = svg.replace("#000000", "currentColor")
    svg = re.sub(r"(<text\b[^>]*style=\")", r"\1fill: currentColor; ", svg)
    label = f'role="img" aria-labelledby="{name}-title {name}-description"'
    told = (
        f'<title id="{name}-title">{escape(plain(figure.title))}</title>'
        f'<desc id="{name}-description">{escape(plain(figure.description))}</desc>'
    )
    return re.sub(r"<svg([^>]*)>", lambda match: f"<svg{match[1]} {label}>{told}", svg, count=1).strip()
