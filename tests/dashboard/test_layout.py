import re

import pytest
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from gecko_lab.dashboard.layout import BY_TOKENS, group, layout_summary, lower_tag, upper_tag

TAGS = [
    "loss/validation",
    "loss/train",
    "bits_per_byte/validation",
    "tokens_per_second",
    "peak_memory_bytes",
    "gradient_norm",
    "skipped_steps",
    "spike_score/loss",
    "gradient_norm/layers.0.memory",
    "gradient_norm/layers.11.memory",
    "gradient_norm/embedding",
    "microscope/layers.3/memory/read_mass",
    "tokens",
    f"{BY_TOKENS}loss/train",
]


def layout(tags: list[str]) -> Layout:
    return Layout.FromString(layout_summary(tags).tensor.string_val[0])


@pytest.fixture
def charts() -> dict[str, list]:
    return {category.title: list(category.chart) for category in layout(TAGS).category}


def test_layout_has_its_groups_in_order(charts: dict[str, list]) -> None:
    assert list(charts) == ["Loss", "Throughput", "Stability", "Norms of components", "Microscope"]


def test_layout_shows_each_curve_once(charts: dict[str, list]) -> None:
    shown = dict.fromkeys(TAGS, 0)
    for chart in (chart for drawn in charts.values() for chart in drawn):
        for pattern in chart.multiline.tag:
            assert pattern.endswith("$")  # or TensorBoard takes it for a prefix
            for tag in TAGS:
                shown[tag] += re.match(pattern, tag) is not None
        for series in chart.margin.series:
            shown[series.value] += 1
    assert charts["Loss"][-1].title.startswith("loss/validation")  # the page shows them in reverse
    assert shown == {tag: 0 if tag == "tokens" else 1 for tag in TAGS}


def test_layout_draws_intervals(charts: dict[str, list]) -> None:
    (series,) = next(chart for chart in charts["Loss"] if chart.title.startswith("loss/validation")).margin.series
    assert (series.value, series.lower, series.upper) == (
        "loss/validation",
        lower_tag("loss/validation"),
        upper_tag("loss/validation"),
    )


def test_layout_puts_all_layers_of_a_component_into_one_chart(charts: dict[str, list]) -> None:
    assert len(charts["Norms of components"]) == 2


@pytest.mark.parametrize(
    ("tag", "title"),
    [
        ("accuracy/validation/distance_0000064-0000127", "Loss"),
        ("gradient_norm", "Stability"),
        ("gradient_norm/layers.0", "Norms of components"),
        ("epoch", None),
    ],
)
def test_group(tag: str, title: str | None) -> None:
    assert group(tag) == title
