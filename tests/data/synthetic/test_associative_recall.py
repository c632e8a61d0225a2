from __future__ import annotations

import numpy as np
import pytest

from gecko_lab.data.synthetic import MultiQueryAssociativeRecall


@pytest.mark.parametrize(("length", "num_pairs"), [(64, 4), (128, 8), (256, 16), (512, 64)])
def test_settings_are_the_published_ones(length: int, num_pairs: int) -> None:
    task = MultiQueryAssociativeRecall(settings=f"zoology-{length}-{num_pairs}")  # type: ignore[arg-type]
    assert (task.length, task.num_pairs, task.vocab_size, task.power_a) == (length, num_pairs, 8192, 0.01)
    keys = np.concatenate([task.sample(0, index).tokens[: 2 * num_pairs : 2] for index in range(20)])
    values = np.concatenate([task.sample(0, index).tokens[1 : 2 * num_pairs : 2] for index in range(20)])
    assert 1 <= keys.min() <= keys.max() < 4096 <= values.min() <= values.max() < 8192


@pytest.mark.parametrize("power_a", [0.01, 0.5, 1.0])
def test_gaps_follow_the_published_generator(power_a: float) -> None:
    """Against NumPy's choice without replacement, which the published generator draws with."""
    number, length, num_pairs = 1500, 32, 3
    task = MultiQueryAssociativeRecall(length=length, num_pairs=num_pairs, power_a=power_a)
    space = (length - 2 * num_pairs) // 2
    weights = np.arange(1, space + 1) ** (power_a - 1)
    generator = np.random.default_rng(0)
    theirs = np.array(
        [generator.choice(space, num_pairs, replace=False, p=weights / weights.sum()) for _ in range(number)]
    )
    ours = np.empty_like(theirs)
    for index in range(number):
        tokens, distances = task.sample(0, index)
        keys = tokens[: 2 * num_pairs : 2].tolist()
        for place in np.flatnonzero(distances >= 0):
            ours[index, keys.index(tokens[place])] = (place - 2 * num_pairs) // 2
    for pair in range(num_pairs):  # the first pair's question comes soonest
        a, b = (np.bincount(gaps[:, pair], minlength=space) / number for gaps in (ours, theirs))
        assert np.abs(a - b).max() < 5 * (2 * 0.25 / number) ** 0.5
        assert np.abs(a - b).sum() < 0.25


def test_random_filler_leaves_pairs_and_questions_alone() -> None:
    options = {"length": 64, "num_pairs": 4, "vocab_size": 64}
    task = MultiQueryAssociativeRecall(**options, random_filler=True)  # type: ignore[arg-type]
    plain = MultiQueryAssociativeRecall(**options)  # type: ignore[arg-type]
    seen = set()
    for index in range(100):
        (tokens, distances), (expected, plain_distances) = task.sample(0, index), plain.sample(0, index)
        assert distances.tolist() == plain_distances.tolist()
        assert (tokens == expected)[expected != 0].all()
        seen |= set(tokens[expected == 0].tolist())
    assert seen == set(range(64))
