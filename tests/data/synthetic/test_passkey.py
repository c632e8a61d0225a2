from __future__ import annotations

import numpy as np
import pytest

from gecko_lab.data.synthetic import Passkey


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)])
@pytest.mark.parametrize("num_needles", [1, 4])
def test_key_lies_in_the_range_of_depths(low: float, high: float, num_needles: int) -> None:
    task = Passkey(length=400, num_needles=num_needles, min_depth=low, max_depth=high)
    depths = []
    for index in range(200):
        tokens, distances = task.sample(0, index)
        key = task.length - task.num_digits - distances.max() - 2  # its first token
        assert tokens[key] == 10
        depths.append((tokens[:key] >= 12 + task.num_names).sum() / (tokens >= 12 + task.num_names).sum())
    assert low - 1 / 350 <= min(depths)  # a place is rounded down to a token
    assert max(depths) <= high
    if low < high:
        assert min(depths) < low + 0.02
        assert max(depths) > high - 0.02


def test_every_needle_of_many_is_asked_for() -> None:
    task = Passkey(length=400, num_needles=4)
    asked = []
    for index in range(100):
        tokens = task.sample(0, index).tokens
        needles = np.flatnonzero(tokens == 10)
        assert len(needles) == 4
        assert len(set(tokens[needles + 1].tolist())) == 4
        asked.append(tokens[needles + 1].tolist().index(tokens[tokens.tolist().index(11) + 1]))
    assert set(asked) == {0, 1, 2, 3}


def test_key_hides_in_a_million_tokens() -> None:
    task = Passkey(length=1_000_000, min_depth=0.1, max_depth=0.1)
    tokens, distances = task.sample(0, 0)
    assert distances.max() == pytest.approx(900_000, abs=10)
    assert tokens[-1] == tokens[-2 - distances.max()]


def test_repeated_filler_repeats() -> None:
    task = Passkey(length=200, filler="repeated", num_filler_tokens=7)
    tokens = task.sample(0, 0).tokens
    filler = tokens[tokens >= 12 + task.num_names]
    assert (filler == 12 + task.num_names + np.arange(len(filler)) % 7).all()
