"""The report's figures as PNG, which is what TensorBoard shows."""

from __future__ import annotations

import io
import textwrap

from tensorboard.compat.proto.summary_pb2 import Summary

from gecko_lab.dashboard.event_folder import tensor_summary
from gecko_lab.reports.document import Figure
from gecko_lab.reports.svg import plain, style

_PIXELS_PER_INCH = 160
_LINE = 110  # characters that fit below one another in a picture


def image_summary(tag: str, figure: Figure) -> Summary.Value:
    """The picture, its title and note above it: TensorBoard shows nothing else with it."""
    text = [plain(figure.title), *textwrap.wrap(plain(figure.note), _LINE)]
    buffer = io.BytesIO()
    with style():
        canvas = figure.draw()
        canvas.suptitle("\n".join(text), fontsize=8, x=0.01, horizontalalignment="left")
        canvas.savefig(buffer, format="png", dpi=_PIXELS_PER_INCH)
    width, height = (round(inches * _PIXELS_PER_INCH) for inches in canvas.get_size_inches())
    return tensor_summary(tag, "images", [str(width).encode(), str(height).encode(), buffer.getvalue()])
