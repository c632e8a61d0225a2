"""What holds for every task: samples by index, inside the vocabulary, with answers that an oracle finds by reading."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gecko_lab.data.errors import DataError
from gecko_lab.data.synthetic import (
    Induction,
    KeyValueOverwrites,
    MultiQueryAssociativeRecall,
    Passkey,
    SelectiveCopying,
    SyntheticTask,
)

# An oracle reads the tokens of a sample by the task's definition, and nothing else: it yields each place that asks,
# its answer, and where the information stands.
Found = tuple[int, int, int]
Oracle = Callable[[Any, list[int]], Iterator[Found]]


def induction(task: Induction, tokens: list[int]) -> Iterator[Found]:
    special = task.vocab_size - 1
    first, second = (place for place in range(task.length) if tokens[place] == special)
    assert second == task.length - 1
    yield second, tokens[first + 1], first + 1


def selective_copying(task: SelectiveCopying, tokens: list[int]) -> Iterator[Found]:
    marker = tokens.index(task.vocab_size - 1)
    heard = [place for place in range(marker) if tokens[place] != 0]
    for turn, place in enumerate(heard):
        yield marker + turn, tokens[place], place


def passkey(task: Passkey, tokens: list[int]) -> Iterator[Found]:
    question = tokens.index(11)
    (needle,) = (
        place for place in range(question) if tokens[place] == 10 and tokens[place + 1] == tokens[question + 1]
    )
    for digit in range(task.num_digits):
        place = needle + 2 + digit
        yield question + 1 + digit, tokens[place], place


def associative_recall(task: MultiQueryAssociativeRecall, tokens: list[int]) -> Iterator[Found]:
    context = 2 * task.num_pairs
    place_of = {tokens[place]: place + 1 for place in range(0, context, 2)}
    for place in range(context, task.length, 2):
        if tokens[place] in place_of:
            yield place, tokens[place_of[tokens[place]]], place_of[tokens[place]]


def key_value_overwrites(task: KeyValueOverwrites, tokens: list[int]) -> Iterator[Found]:
    store: dict[int, int] = {}
    place = 0
    while place < task.length:
        if tokens[place] == 1:
            store[tokens[place + 1]] = place + 2
        elif tokens[place] == 2:
            written = store[tokens[place + 1]]
            yield place + 1, tokens[written], written
        place += 3 if tokens[place] in (1, 2) else 1


ORACLES: dict[type[SyntheticTask], Oracle] = {
    Induction: induction,
    KeyValueOverwrites: key_value_overwrites,
    MultiQueryAssociativeRecall: associative_recall,
    Passkey: passkey,
    SelectiveCopying: selective_copying,
}


def even(low: int, high: int) -> st.SearchStrategy[int]:
    return st.integers(low // 2, high // 2).map(lambda half: 2 * half)


@st.composite
def tasks(draw: st.DrawFn) -> SyntheticTask:
    """A small task of any kind, tight ones among them."""
    kind = draw(st.sampled_from(list(ORACLES)))
    room = draw(st.sampled_from([0, 1, 2, 7, 40]))
    number = draw(st.integers(1, 6))
    if kind is Induction:
        return Induction(length=3 + room, vocab_size=draw(st.integers(3, 9)))
    if kind is SelectiveCopying:
        return SelectiveCopying(length=2 * number + room, num_data_tokens=number, vocab_size=draw(st.integers(4, 9)))
    if kind is Passkey:
        digits = draw(st.integers(1, 4))
        low, high = sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
        return Passkey(
            length=(number + 1) * (2 + digits) - 1 + room,
            num_digits=digits,
            num_needles=number,
            min_depth=low,
            max_depth=high,
            filler=draw(st.sampled_from(["random", "repeated"])),
            num_names=number + draw(st.integers(0, 3)),
            num_filler_tokens=draw(st.integers(1, 5)),
        )
    if kind is MultiQueryAssociativeRecall:
        return MultiQueryAssociativeRecall(
            length=4 * number + 2 * room,
            num_pairs=number,
            vocab_size=2 * (number + 1) + draw(even(0, 8)),
            power_a=draw(st.sampled_from([0.01, 0.5, 1.0])),
        )
    shortest, longest = draw(st.tuples(st.integers(2, 30), st.integers(2, 30)).map(sorted).map(tuple))
    longest = max(longest, 3 * -(-(shortest + 1) // 3) - 1)
    writes = number + draw(st.integers(0, 8))
    steps = max((longest + 1) // 3 + 4 * (number - 1) + 1, writes + number)
    return KeyValueOverwrites(
        length=3 * steps - 1 + room,
        num_keys=number + 1 + draw(st.integers(0, 4)),
        num_values=draw(st.integers(2, 9)),
        num_writes=writes,
        num_reads=number,
        min_distance=shortest,
        max_distance=draw(st.sampled_from([longest, None])),
    )


@settings(max_examples=300)
@given(tasks(), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1))
def test_oracle_finds_every_answer_by_reading(task: SyntheticTask, seed: int, index: int) -> None:
    tokens, distances = task.sample(seed, index)
    assert tokens.dtype == distances.dtype == np.int64
    assert (tokens.shape, distances.shape) == ((task.length + 1,), (task.length,))
    assert 0 <= tokens.min() <= tokens.max() < task.vocab_size
    found = sorted(ORACLES[type(task)](task, tokens.tolist()))
    assert [place for place, _, _ in found] == np.flatnonzero(task.sample(seed, index).answers).tolist()
    assert len(found) == task.num_answers
    for place, answer, source in found:
        assert tokens[place + 1] == answer == tokens[source]
        assert distances[place] == place - source > 0
    others = np.setdiff1d(np.arange(task.length), [place for place, _, _ in found])
    assert (distances[others] == -1).all()


@settings(max_examples=50)
@given(tasks(), st.integers(0, 2**32 - 1))
def test_sample_is_a_function_of_seed_and_index(task: SyntheticTask, seed: int) -> None:
    again = type(task)(**task.options)
    for index in (3, 0, 2**62):
        for one, other in zip(task.sample(seed, index), again.sample(seed, index), strict=True):
            assert one.tolist() == other.tolist()


@pytest.mark.parametrize(
    ("task", "digest"),
    [
        (Induction(), "b84c9e0a1995e22b"),
        (KeyValueOverwrites(), "129eafeeb3e74c1a"),
        (MultiQueryAssociativeRecall(settings="zoology-512-64"), "8fd55140fdddb60a"),
        (Passkey(num_needles=4), "b6e3edd3685b5494"),
        (SelectiveCopying(length=512), "78bbbb3ec9ac0fd6"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, SyntheticTask) else "",
)
def test_samples_never_change(task: SyntheticTask, digest: str) -> None:
    """A run that was begun must go on as it began, on another machine and whatever was installed since."""
    parts = [part for index in (0, 1, 2**61) for part in task.sample(5, index)]
    assert hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()[:16] == digest


@pytest.mark.parametrize("kind", ORACLES)
def test_default_samples_all_differ(kind: type[SyntheticTask]) -> None:
    task = kind()
    names = [(0, index) for index in range(20)] + [(1, 0), (0, 1 << 61), (0, 1 << 62)]
    assert len({task.sample(*name).tokens.tobytes() for name in names}) == len(names)


@pytest.mark.parametrize("kind", ORACLES)
def test_chance_is_the_accuracy_of_a_uniform_guess(kind: type[SyntheticTask]) -> None:
    """Every token that can be an answer is one equally often."""
    task = kind(vocab_size=16) if kind is MultiQueryAssociativeRecall else kind()
    counts = np.zeros(task.vocab_size)
    for index in range(4000 // task.num_answers):
        tokens, distances = task.sample(0, index)
        np.add.at(counts, tokens[1:][distances >= 0], 1)
    number, shares = counts.sum(), counts[counts > 0] / counts.sum()
    assert len(shares) == round(1 / task.chance)
    np.testing.assert_allclose(shares, task.chance, atol=5 * (task.chance / number) ** 0.5)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: Induction(length=2), "Induction.length"),
        (lambda: Induction(vocab_size=2), "Induction.vocab_size"),
        (lambda: SelectiveCopying(length=7, num_data_tokens=4), "SelectiveCopying.length"),
        (lambda: SelectiveCopying(num_data_tokens=0), "SelectiveCopying.num_data_tokens"),
        (lambda: Passkey(length=12), "Passkey.length"),
        (lambda: Passkey(min_depth=0.6, max_depth=0.5), "Passkey.min_depth"),
        (lambda: Passkey(num_needles=3, num_names=2), "Passkey.num_names"),
        (lambda: MultiQueryAssociativeRecall(length=15, num_pairs=2), "MultiQueryAssociativeRecall.length"),
        (lambda: MultiQueryAssociativeRecall(length=14, num_pairs=4), "MultiQueryAssociativeRecall.length"),
        (lambda: MultiQueryAssociativeRecall(vocab_size=8), "MultiQueryAssociativeRecall.vocab_size"),
        (lambda: MultiQueryAssociativeRecall(power_a=0.0), "MultiQueryAssociativeRecall.power_a"),
        (lambda: KeyValueOverwrites(num_keys=8, num_reads=8), "KeyValueOverwrites.num_keys"),
        (lambda: KeyValueOverwrites(num_writes=7, num_reads=8), "KeyValueOverwrites.num_writes"),
        (lambda: KeyValueOverwrites(min_distance=500), "KeyValueOverwrites.length"),
        (lambda: KeyValueOverwrites(max_distance=500), "KeyValueOverwrites.length"),
        (lambda: KeyValueOverwrites(min_distance=9, max_distance=10), "KeyValueOverwrites.max_distance"),
        (lambda: KeyValueOverwrites(length=100, num_writes=40, num_reads=2), "KeyValueOverwrites.length"),
    ],
)
def test_task_refuses_options_that_cannot_be(make: Callable[[], SyntheticTask], option: str) -> None:
    with pytest.raises(DataError, match=option.replace(".", r"\.")):
        make()
