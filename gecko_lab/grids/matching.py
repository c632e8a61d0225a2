"""Dimensions by which every variant costs what the base costs."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from gecko_lab.cost import Cost
from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.definition import Match
from gecko_lab.grids.variants import Variant, told
from gecko_lab.registry import find
from gecko_lab.slots import Layer

TOLERANCE = 0.005
"""How far a variant's cost may lie from the base's, as a share of it."""

_MEASURES: dict[str, Callable[[Cost], float]] = {
    "parameters": lambda cost: cost.parameters,
    "flops": lambda cost: cost.flops_per_token,
    "state": lambda cost: cost.state_bytes,
}
_UNITS = {"parameters": "parameters", "flops": "FLOPs per token", "state": "bytes of state"}
_LARGEST = 1 << 24


def match(variants: Sequence[Variant], base: Variant, by: Match, dimension: str) -> None:
    """Let every variant agree with the base in a cost; those that do so already are left as they are.

    Args:
        variants: all of the grid; their settings are changed.
        base: the one that the others are compared with.
        by: the cost; `none` leaves everything as it is.
        dimension: of the layer, solved in whole numbers.

    Raises:
        ConfigurationError: variants cannot be matched; one message names all of them.
    """
    if by == "none":
        return
    measure, mistakes = _MEASURES[by], {}
    target = measure(base.cost)
    for variant in variants:
        if agrees(measure(variant.cost), target):
            continue
        reason = _solve(variant, dimension, measure, target)
        if reason is not None:
            mistakes[variant.name] = (
                f"{measure(variant.cost):,.0f} {_UNITS[by]}, the base has {target:,.0f}, and {reason}; change the "
                "levels, give grid.match_by another dimension, or compare unmatched with grid.match: none"
            )
    if mistakes:
        raise ConfigurationError(told(mistakes))


def agrees(value: float, target: float) -> bool:
    """Whether a cost is near enough to the base's."""
    return abs(value - target) <= TOLERANCE * target


def _solve(variant: Variant, dimension: str, measure: Callable[[Cost], float], target: float) -> str | None:
    """Give the variant the nearest dimension; the reason why there is none."""
    if any(dimension in key.split(".") or _names(value, dimension) for key, value in variant.cell.overrides.items()):
        return f"it sets {dimension} itself, by which it would be matched"
    step = _step(variant, dimension)

    @functools.cache
    def at(multiple: int) -> float:
        return measure(variant.cost_with(**{dimension: step * multiple}))

    try:
        best = _nearest(at, target)
    except ConfigurationError as error:
        return f"{dimension} cannot be solved: {error}"
    if best is None:
        return f"its {dimension} does not change that"
    if not agrees(at(best), target):
        return f"the nearest {dimension}, {step * best:,}, gives {at(best):,.0f}"
    variant.take({dimension: step * best})
    return None


def _nearest(at: Callable[[int], float], target: float) -> int | None:
    """The positive number at which a function that grows is nearest to the target; none for one that does not grow."""
    if at(2) <= at(1):
        return None
    # costs are all but straight lines, where the first guess is right
    guess = math.ceil((target - at(1)) / (at(2) - at(1))) + 1
    low, high = 1, min(max(guess, 2), _LARGEST)
    while at(high) < target and high < _LARGEST:
        low, high = high, 2 * high
    halve = False
    while high - low > 1:
        share = 0.5 if halve else (target - at(low)) / (at(high) - at(low))
        middle = min(max(low + round(share * (high - low)), low + 1), high - 1)
        halve = not halve
        if at(middle) < target:
            low = middle
        else:
            high = middle
    return min((low, high), key=lambda multiple: (abs(at(multiple) - target), multiple))


def _step(variant: Variant, dimension: str) -> int:
    """What the dimension must be a multiple of: heads divide values and keys, and rotations pair the keys."""
    if dimension == "hidden_dim":
        return 1
    heads = num_heads(variant)
    return heads if dimension == "value_dim" else 2 * heads


def num_heads(variant: Variant) -> int:
    """Heads of the variant's layers, of which different ones may have different numbers: their product divides."""
    tree = variant.network()
    layers = tree["layer"] if isinstance(tree["layer"], list) else [tree["layer"]]
    counts = []
    for layer in layers:
        cls: Any = find(Layer, layer["class_path"], "model.network.layer")
        counts.append(layer["init_args"].get("num_heads") or cls.sizes[tree["size"]].num_heads)
    return math.lcm(*counts)


def _names(value: object, dimension: str) -> bool:
    """Whether a value sets the dimension somewhere inside."""
    if isinstance(value, dict):
        return any(key == dimension or _names(inner, dimension) for key, inner in value.items())
    return isinstance(value, list) and any(_names(inner, dimension) for inner in value)
