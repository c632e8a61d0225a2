"""The cells of the tables: they fit whatever was measured, and say what was measured."""

import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from gecko_lab.bench import decode_table, train_table
from gecko_lab.bench.models import NAMES, OWN_LOSS
from gecko_lab.bench.table import WIDTH, mebibytes, problem_table, ratio, share, spread
from gecko_lab.bench.timing import Times

SECONDS = st.floats(-7, 3.99).map(lambda exponent: 10**exponent)
SAMPLES = st.lists(SECONDS, min_size=1, max_size=5)
SCALES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
UNITS = {"µs": 1e-6, "ms": 1e-3, "s": 1.0}


def near(text: str, value: float, relative: float = 0.0) -> bool:
    """Whether a rounded number is that of a value: to half of its last digit, or to a part of it."""
    half = 0.5 * 10.0 ** -len(text.partition(".")[2])
    return abs(float(text) - value) <= max(half, relative * value) * (1 + 1e-6)


@given(SAMPLES)
@example([99.96e-3, 98.0e-3, 99.9e-3])
@example([0.99996e-3, 0.99996e-3])
@example([9.9996, 9.99, 10.4])
@example([1e-4, 2e-4, 12.0])
def test_spread_is_short_and_right(samples: list[float]) -> None:
    text = spread(Times(samples).as_dict())
    assert len(text) <= 19
    match = re.fullmatch(r"([\d.]+) (µs|ms|s) \(([\d.]+)–([\d.]+)\)", text)
    assert match, text
    numbers = (match[1], match[3], match[4])
    for number, seconds in zip(numbers, (Times(samples).median, min(samples), max(samples)), strict=True):
        assert near(number, seconds / UNITS[match[2]])


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        ((12.34, 11.9, 14.0), "12.3 ms (11.9–14.0)"),
        ((123.4, 110.1, 140.2), "123 ms (110–140)"),
        ((0.0123, 0.012, 0.0125), "12.3 µs (12.0–12.5)"),
        ((2345.6, 2301.2, 2400.0), "2346 ms (2301–2400)"),
        ((99.96, 98.0, 101.0), "100 ms (98–101)"),
        ((119000.0, 118000.0, 126000.0), "119 s (118–126)"),
        ((0.9, 0.9, 1000.0), "0.9 ms (0.9–1000.0)"),
    ],
)
def test_spread_keeps_what_fits(milliseconds: tuple[float, float, float], text: str) -> None:
    assert spread(dict(zip(("median", "min", "max"), (x / 1e3 for x in milliseconds), strict=True))) == text


@given(st.floats(-6, 14).map(lambda exponent: 10**exponent))
@example(9.996)
@example(99.97)
@example(9999.7)
def test_ratio_is_short_and_right(value: float) -> None:
    text = ratio(3 * value, 3.0)
    assert len(text) <= 4
    number, scale = re.fullmatch(r"([\d.]+)([kMGT]?)", text).groups()
    assert near(number, value / SCALES[scale], 0.05)


@given(st.floats(0, 9.99))
@example(0.0997)
@example(0.9996)
def test_share_is_short_and_right(value: float) -> None:
    text = share(value)
    assert len(text) <= 4
    assert text.endswith("%")
    assert near(text[:-1], 100 * value)


def test_what_is_missing_is_said_so() -> None:
    assert share(None) == ratio(None, 1) == ratio(1, None) == ratio(1, 0) == ""
    assert mebibytes(None) == "–"


@given(st.integers(0, 2**46))
@example(9999 * 2**20 - 1)
@example(999 * 2**30 - 1)
def test_mebibytes_are_short_and_right(number: int) -> None:
    text = mebibytes(number)
    assert len(text) <= 4
    scale = {"G": 2**30, "T": 2**40}.get(text[-1], 2**20)
    assert near(text.rstrip("GT"), number / scale)


@st.composite
def measured(draw: st.DrawFn) -> dict[str, Any]:
    """A row that holds what all tables show, of three rounds."""
    seconds = Times(draw(st.lists(SECONDS, min_size=3, max_size=3))).as_dict()
    peaks = st.none() | st.integers(0, 2**42)
    return {
        "seconds": seconds,
        "bytes": draw(peaks),
        "predicted_bytes": draw(peaks),
        "state_bytes": draw(peaks),
        "limit": draw(st.none() | st.floats(0, 9.9)),
        "peak_share": draw(st.none() | st.floats(0, 9.9)),
        "tokens_per_second": {"median": draw(st.floats(0, 1e8))},
    }


@given(st.lists(measured(), min_size=6, max_size=6))
def test_no_table_cuts_anything(rows: list[dict[str, Any]]) -> None:
    names = (*NAMES, OWN_LOSS)
    passes = [
        {"name": name, "same": True, "forward": forward, "forward_backward": both}
        for name, forward, both in zip(("ours", "another"), rows[::2], rows[1::2], strict=False)
    ]
    models = [{**row, "name": name} for name, row in zip(names, rows, strict=False)]
    console = Console(width=WIDTH, highlight=False)
    with console.capture() as captured:
        console.print(problem_table({"contenders": passes}))
        console.print(train_table.length_table(models))
        console.print(decode_table.speed_table(models))
    printed = captured.get()
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= WIDTH
    assert all(name in printed for name in names)
