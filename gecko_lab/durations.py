"""Lengths of training, in steps or in tokens."""

from __future__ import annotations

import re

from gecko_lab.errors import ConfigurationError

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_PATTERN = re.compile(
    r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([kmgbt]?)\s*(steps?|tokens?)?\s*", re.IGNORECASE
)

Duration = int | str


def in_steps(duration: Duration, tokens_per_step: int, where: str) -> int:
    """Optimiser steps of a duration, rounded up.

    Args:
        duration: steps as a number, or words such as `"200 steps"`, `"50M tokens"`, `"2.5B tokens"`.
        tokens_per_step: tokens that one optimiser step reads, over all devices.
        where: the key that holds it, for the message.

    Raises:
        ConfigurationError: if it cannot be read.
    """
    if isinstance(duration, int) and not isinstance(duration, bool) and duration >= 0:
        return duration
    match = _PATTERN.fullmatch(str(duration))
    if match is None:
        raise ConfigurationError(f"{where}: expected steps or tokens, such as 200 or '50M tokens', got {duration!r}")
    number, factor, unit = match.groups()
    count = round(float(number.replace("_", "")) * _FACTORS[factor.lower()])
    if unit and unit.lower().startswith("token"):
        return -(-count // tokens_per_step)
    if factor and unit is None:
        raise ConfigurationError(f"{where}: {duration!r} of what? Say '{duration} tokens' or '{duration} steps'")
    return count
