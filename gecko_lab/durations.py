"""Lengths of training and intervals, in steps, tokens or minutes."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from gecko_lab.errors import ConfigurationError

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9, "t": 10**12}
_PATTERN = re.compile(
    r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[0-9]{1,2})?)\s*([kmgbt]?)\s*(steps?|tokens?|minutes?|hours?)?\s*", re.IGNORECASE
)

Duration = int | str
Unit = Literal["steps", "tokens", "minutes"]


class Length(NamedTuple):
    """A duration that was read: so many of a unit."""

    number: float
    unit: Unit


def read(duration: Duration, where: str, *, times: bool = True) -> Length:
    """What a duration says.

    Args:
        duration: steps as a number, or words such as `"200 steps"`, `"50M tokens"`, `"10 minutes"`, `"1.5 hours"`.
        where: the key that holds it, for the message.
        times: whether minutes and hours are durations here.

    Raises:
        ConfigurationError: if it cannot be read.
    """
    if isinstance(duration, int) and not isinstance(duration, bool) and duration >= 0:
        return Length(duration, "steps")
    match = _PATTERN.fullmatch(str(duration))
    number, factor, unit = match.groups() if match else ("", "", "")
    unit = (unit or "").lower().rstrip("s")
    if match is None or (unit in ("minute", "hour") and not times):
        with_times = "steps, tokens or minutes, such as 200, '50M tokens' or '10 minutes'"
        expected = with_times if times else "steps or tokens, such as 200 or '50M tokens'"
        raise ConfigurationError(f"{where}: expected {expected}, got {duration!r}")
    count = float(number.replace("_", "")) * _FACTORS[factor.lower()]
    if unit in ("minute", "hour"):
        return Length(count * (60 if unit == "hour" else 1), "minutes")
    if factor and not unit:
        raise ConfigurationError(f"{where}: {duration!r} of what? Say '{duration} tokens' or '{duration} steps'")
    return Length(round(count), "tokens" if unit == "token" else "steps")


def in_steps(duration: Duration, tokens_per_step: int, where: str) -> int:
    """Optimiser steps of a duration in steps or tokens, rounded up.

    Args:
        duration: as in `read`.
        tokens_per_step: tokens that one optimiser step reads, over all devices.
        where: the key that holds it, for the message.

    Raises:
        ConfigurationError: if it cannot be read, or is a time.
    """
    number, unit = read(duration, where, times=False)
    return -(-int(number) // tokens_per_step) if unit == "tokens" else int(number)
