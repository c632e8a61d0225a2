"""Pictures of what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from gecko_lab.microscope.history import History
from gecko_lab.microscope.memory import WRITE_RATIO_EDGES
from gecko_lab.microscope.moving_average import HALF_LIFE_EDGES


def draw(history: History) -> dict[str, Any]:
    """The figures by name; those that there is nothing for are left out."""
    figures = {}
    if history.half_lives:
        axis, bar = "half-life (tokens)", "share of the output's power"
        figures["half_life"] = _heat_map(history.half_lives, HALF_LIFE_EDGES, axis, bar)
    if history.write_ratios:
        axis, bar = "write ratio ρ", "share of slots and writes"
        figures["write_ratio"] = _heat_map(history.write_ratios, WRITE_RATIO_EDGES, axis, bar)
    if history.shares:
        figures["attention_share"] = _curves(history.shares)
    return figures


def _heat_map(rows: Mapping[str, Sequence[float]], edges: Tensor, axis: str, bar: str) -> Any:
    """Layers upward, bins to the right on a logarithmic axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.5 + 0.3 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    bounds = [i - 0.5 for i in range(len(rows) + 1)]
    mesh = axes.pcolormesh(edges.tolist(), bounds, list(rows.values()), cmap="viridis", vmin=0)
    axes.set(xscale="log", xlabel=axis, yticks=range(len(rows)), yticklabels=list(rows))
    figure.colorbar(mesh, label=bar)
    return figure


def _curves(shares: Sequence[tuple[int, Mapping[str, float]]]) -> Any:
    """A line for each layer, the darker the deeper."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    layers = list(dict.fromkeys(layer for _, of_layer in shares for layer in of_layer))
    colours = matplotlib.colormaps["viridis_r"].resampled(len(layers) + 1)
    for i, layer in enumerate(layers):
        points = [(step, of_layer[layer]) for step, of_layer in shares if layer in of_layer]
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, marker=".", color=colours(i + 1), label=layer)
    axes.axhline(0.5, linestyle="--", color="gray")
    axes.set(xlabel="step", ylabel="share of attention (rest: memory)", ylim=(0, 1))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=7, ncols=-(-len(layers) // 20), reverse=True)
    axes.grid(alpha=0.3)
    return figure
