"""Which curves stand together: the layout of Custom Scalars."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import metadata
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Chart,
    Layout,
    MarginChartContent,
    MultilineChartContent,
)

from gecko_lab.dashboard.aggregate import LEVEL
from gecko_lab.dashboard.event_folder import tensor_summary

LOSS, THROUGHPUT, STABILITY, NORMS, MICROSCOPE = (
    "Loss",
    "Throughput",
    "Stability",
    "Norms of components",
    "Microscope",
)
_GROUPS = {
    "tokens_per_second": THROUGHPUT,
    "model_flops_per_second": THROUGHPUT,
    "peak_memory_bytes": THROUGHPUT,
    "loader_wait": THROUGHPUT,
    "gradient_norm": STABILITY,
    "skipped_steps": STABILITY,
    "spike_score/loss": STABILITY,
    "spike_score/gradient_norm": STABILITY,
    "learning_rate": STABILITY,
}
_FIRST = ("loss/validation", "loss/train", "bits_per_byte/validation", "accuracy/validation")
_LAYER = re.compile(r"layers\.[0-9]+")
_INTERVAL = f"mean over seeds, {100 * LEVEL:g} % interval"
BY_TOKENS = "thousand_tokens/"
"""Prefix of tags whose step counts thousands of tokens."""


def group(tag: str) -> str | None:
    """The group of a curve; none for what is no result, such as `tokens`."""
    if tag in _GROUPS:
        return _GROUPS[tag]
    if tag.startswith("microscope/"):
        return MICROSCOPE
    if tag.startswith(("gradient_norm/", "parameter_norm/", "activation_rms/")):
        return NORMS
    return LOSS if tag.endswith(("/validation", "/train")) or "/validation/" in tag else None


def has_interval(tag: str) -> bool:
    """Whether the interval over seeds is drawn: everywhere but for single components, of which there are many."""
    return group(tag) in (LOSS, THROUGHPUT, STABILITY)


def lower_tag(tag: str) -> str:
    """The tag of the interval's lower end."""
    return f"over_seeds/{tag}/lower"


def upper_tag(tag: str) -> str:
    """The tag of the interval's upper end."""
    return f"over_seeds/{tag}/upper"


def layout_summary(tags: Iterable[str]) -> Summary.Value:
    """The layout for the curves that there are.

    Curves with an interval have a chart each; those of components share a chart over all layers.

    Args:
        tags: of the aggregate runs, those of intervals left out.
    """
    charts: dict[str, list[Chart]] = {title: [] for title in (LOSS, THROUGHPUT, STABILITY, NORMS, MICROSCOPE)}
    lines: dict[tuple[str, str], str] = {}  # by group and title the pattern
    for tag in sorted(tags, key=_place):
        name = tag.removeprefix(BY_TOKENS)
        where = group(name)
        if where is None:
            continue
        if has_interval(name):
            series = MarginChartContent.Series(value=tag, lower=lower_tag(tag), upper=upper_tag(tag))
            title = f"{name}{' against thousands of tokens' if name != tag else ''}: {_INTERVAL}"
            # the page shows these in reverse
            charts[where].insert(0, Chart(title=title, margin=MarginChartContent(series=[series])))
        else:
            pattern = r"layers\.[0-9]+".join(map(re.escape, _LAYER.split(tag)))
            lines[where, _LAYER.sub("layers", tag)] = f"{pattern}$"
    for (where, title), pattern in lines.items():
        charts[where].append(Chart(title=title, multiline=MultilineChartContent(tag=[pattern])))
    categories = [
        Category(title=title, chart=drawn, closed=title in (NORMS, MICROSCOPE))
        for title, drawn in charts.items()
        if drawn
    ]
    content = Layout(category=categories).SerializeToString()
    return tensor_summary(metadata.CONFIG_SUMMARY_TAG, metadata.PLUGIN_NAME, [content], scalar=True)


def _place(tag: str) -> tuple[int, bool, list[str | int]]:
    """Losses first, each beside itself against tokens; numbers in names by size."""
    name = tag.removeprefix(BY_TOKENS)
    words = [int(word) if word.isdigit() else word for word in re.split("([0-9]+)", name)]
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name != tag, words)
