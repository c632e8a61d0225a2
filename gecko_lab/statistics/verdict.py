"""Verdicts in words, with numbers rounded so that they say the same as the test."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from gecko_lab.statistics.comparison import Comparison
from gecko_lab.statistics.effects import Effects

Outcome = Literal["better", "worse", "no evidence", "equal", "unknown"]
MOST_DIGITS = 17


@dataclass(frozen=True)
class Verdict:
    """What the runs say about one difference.

    Attributes:
        name: of the variant or the effect.
        outcome: `better` or `worse` (significant), `no evidence` (of a difference), `equal` (no difference and no
            noise), `unknown` (one seed: the noise cannot be told, or nothing could be compared).
        text: one sentence without a full stop.
    """

    name: str
    outcome: Outcome
    text: str


def comparison_verdicts(comparison: Comparison, *, lower_is_better: bool, unit: str = "") -> tuple[Verdict, ...]:
    """A verdict for each variant beside the base, those that cannot be compared last.

    `better by 0.012 ± 0.004 nats (95 %, 5 seeds)`: behind ± stands half of the interval that agrees with the verdict.

    Args:
        comparison: of the variants.
        lower_is_better: true for a loss, false for an accuracy.
        unit: of the value, such as `nats`.
    """
    words = _Words(comparison.level, comparison.power, lower_is_better, unit, better="better", worse="worse")
    verdicts = [
        words.verdict(row["variant"], row, _count(row["num_seeds"])) for row in comparison.table.to_dict("records")
    ]
    verdicts += [Verdict(name, "unknown", f"not compared: {why}") for name, why in comparison.not_compared.items()]
    return tuple(verdicts)


def effect_verdicts(effects: Effects, *, lower_is_better: bool, unit: str = "") -> tuple[Verdict, ...]:
    """A verdict for each effect of a factorial grid; the arguments are those of `comparison_verdicts`."""
    main = _Words(effects.level, effects.power, lower_is_better, unit, better="better", worse="worse")
    joint = _Words(
        effects.level,
        effects.power,
        lower_is_better,
        unit,
        better="together better than the sum of both",
        worse="together worse than the sum of both",
        nothing="an interaction",
    )
    seeds = _count(effects.num_seeds)
    verdicts = [
        (main if row["kind"] == "main" else joint).verdict(row["effect"], row, seeds)
        for row in effects.table.to_dict("records")
    ]
    verdicts += [Verdict(name, "unknown", f"cannot be told: {why}") for name, why in effects.not_estimable.items()]
    return tuple(verdicts)


@dataclass(frozen=True)
class _Words:
    level: float
    power: float
    lower_is_better: bool
    unit: str
    better: str
    worse: str
    nothing: str = "a difference"

    def verdict(self, name: str, row: dict[str, Any], seeds: str) -> Verdict:
        """From a row of `judge`."""
        difference, error = row["difference"], row["standard_error"]
        half = (row["high"] - row["low"]) / 2
        good = (difference < 0) == self.lower_is_better
        unit = f" {self.unit}" if self.unit else ""
        if math.isnan(error):
            text = (
                f"{_signed(_plain(difference))}{unit} ({seeds}): no verdict, because the noise between seeds is unknown"
            )
            return Verdict(name, "unknown", text)
        if error == 0 and difference == 0:
            return Verdict(name, "equal", f"no difference at all ({seeds}, no noise between seeds)")
        if error == 0:
            word = self.better if good else self.worse
            text = f"{word} by {_plain(abs(difference))}{unit} ({seeds}, no noise between seeds)"
            return Verdict(name, "better" if good else "worse", text)
        significant = bool(row["significant"])
        amount = rounded(abs(difference) if significant else difference, half, significant=significant)
        basis = f"{_percent(self.level)}, {seeds}"
        if significant:
            word = self.better if good else self.worse
            return Verdict(name, "better" if good else "worse", f"{word} by {amount}{unit} ({basis})")
        found = f"an effect of {_plain(row['detectable'], digits=2)}{unit} would have been found"
        text = (
            f"no evidence of {self.nothing} ({amount}{unit}, {basis}); {found} with {_percent(self.power)} probability"
        )
        return Verdict(name, "no evidence", text)


def rounded(difference: float, half: float, *, significant: bool) -> str:
    """`0.012 ± 0.0042` with two significant digits of `half` > 0 and as many decimals of the difference.

    More digits where two would contradict the verdict: |difference| reads larger than `half` exactly where
    `significant`. Numbers that would need many zeros share a power of ten. A minus sign is that of typography.
    """
    largest = max(abs(difference), half)
    exponent = math.floor(math.log10(largest))
    exponent = exponent if exponent < -4 or exponent > 5 else 0
    scaled, scaled_half = difference / 10.0**exponent, half / 10.0**exponent
    for digits in range(2, MOST_DIGITS):
        decimals = digits - 1 - math.floor(math.log10(scaled_half))
        if float(f"{scaled_half:.{digits - 1}e}") >= 10.0 ** (1 + math.floor(math.log10(scaled_half))):
            decimals -= 1  # 0.0996 is 0.10, not 0.100
        number, bound = round(scaled, decimals), round(scaled_half, decimals)
        if (abs(number) > bound) == significant:
            break
    shown = max(decimals, 0)
    text = f"{_signed(f'{number + 0.0:.{shown}f}')} ± {bound:.{shown}f}"
    return f"({text}) × 10{_superscript(exponent)}" if exponent else text


def _plain(number: float, *, digits: int = 3) -> str:
    """A number with `digits` significant digits, as `rounded` would write it."""
    if number == 0:
        return "0"
    mantissa, power = f"{number:.{digits - 1}e}".split("e")
    exponent = int(power)
    if -4 <= exponent <= 5:
        return f"{float(f'{mantissa}e{exponent}'):.{max(digits - 1 - exponent, 0)}f}"
    return f"{mantissa} × 10{_superscript(exponent)}"


def _signed(text: str) -> str:
    return text.replace("-", "−")


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _percent(probability: float) -> str:
    return f"{100 * probability:g} %"


def _count(num_seeds: int) -> str:
    return f"{num_seeds} seed" + ("" if num_seeds == 1 else "s")
