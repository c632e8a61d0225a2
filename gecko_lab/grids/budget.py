"""What every run may spend, and how many steps that is."""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from gecko_lab.durations import read
from gecko_lab.errors import ConfigurationError

TRAINING_FACTOR = 3
"""FLOPs of a training step per FLOP of its forward pass."""

_FLOPS = re.compile(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e\+?[0-9]{1,2})?)\s*flops?\s*", re.IGNORECASE)


class Budget(NamedTuple):
    """So many of a unit, for each run.

    Attributes:
        number: how many.
        unit: optimiser steps, tokens read, floating-point operations of the training, or minutes of training.
        text: as the user wrote it.
    """

    number: float
    unit: Literal["steps", "tokens", "FLOPs", "minutes"]
    text: str


def read_budget(value: Any, where: str) -> Budget:
    """Read a budget such as `50M tokens`, `1e17 FLOPs`, `2 hours` or `1000 steps`.

    Raises:
        ConfigurationError: if it cannot be read, or is nothing.
    """
    match = _FLOPS.fullmatch(str(value))
    if match is not None:
        budget = Budget(float(match[1].replace("_", "")), "FLOPs", str(value).strip())
    else:
        try:
            number, unit = read(value, where)
        except ConfigurationError:
            raise ConfigurationError(
                f"{where}: expected tokens, FLOPs, hours or steps, such as '50M tokens', '1e17 FLOPs' or '2 hours', "
                f"got {value!r}"
            ) from None
        budget = Budget(number, unit, str(value).strip())
    if budget.number <= 0:
        raise ConfigurationError(f"{where}: must be more than nothing, got {value!r}")
    return budget


def steps_of(
    budget: Budget, *, tokens_per_step: int, flops_per_token: float, seconds_per_step: float | None = None
) -> int:
    """Optimiser steps that a budget pays for, at least one.

    Tokens are rounded up to whole steps, as `trainer` durations are; FLOPs to the nearest step; time down.

    Args:
        budget: of one run.
        tokens_per_step: tokens that one step reads.
        flops_per_token: of the forward pass.
        seconds_per_step: needed where the budget is a time.

    Raises:
        ConfigurationError: the budget is a time, and nobody knows how long a step takes.
    """
    if budget.unit == "steps":
        steps = int(budget.number)
    elif budget.unit == "tokens":
        steps = -(-int(budget.number) // tokens_per_step)
    elif budget.unit == "FLOPs":
        steps = round(budget.number / (TRAINING_FACTOR * flops_per_token * tokens_per_step))
    elif seconds_per_step is None:
        raise ConfigurationError(
            f"grid.budget: {budget.text} is a time, and how long a step takes is not known: leave out --no_trial"
        )
    else:
        steps = int(budget.number * 60 / seconds_per_step)
    return max(steps, 1)
