from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.data.synthetic import KeyValueOverwrites


@given(st.integers(0, 1000))
def test_distances_lie_in_the_range(index: int) -> None:
    task = KeyValueOverwrites(length=400, min_distance=100, max_distance=200)
    distances = task.sample(0, index).distances
    asked = distances[distances >= 0]
    assert 100 <= asked.min() <= asked.max() <= 200


def test_distances_reach_over_the_whole_range() -> None:
    task = KeyValueOverwrites(length=100, num_reads=2, min_distance=3, max_distance=12, num_writes=8)
    seen = {int(value) for index in range(200) for value in task.sample(0, index).distances}
    assert seen == {-1, 5, 8, 11}


def test_values_of_keys_that_are_read_have_been_overwritten() -> None:
    """Neither the first nor the last value of a key in the sample is a good guess."""
    task = KeyValueOverwrites()
    stale = later = 0
    for index in range(200):
        tokens, distances = task.sample(0, index)
        writes = [(int(tokens[p + 1]), p + 2) for p in range(len(tokens) - 2) if tokens[p] == 1 and tokens[p + 1] >= 3]
        for place in (distances >= 0).nonzero()[0]:
            sources = [source for key, source in writes if key == tokens[place]]
            stale += min(sources) < place - distances[place]
            later += max(sources) > place
    assert stale > 0.3 * 200 * task.num_reads
    assert later > 0.2 * 200 * task.num_reads


@pytest.mark.parametrize("length", [511, 512, 513])
def test_tokens_left_over_begin_the_sample(length: int) -> None:
    tokens = KeyValueOverwrites(length=length).sample(0, 0).tokens
    rest = (length + 1) % 3
    assert (tokens[:rest] == 0).all()
    assert set(tokens[rest::3].tolist()) == {0, 1, 2}
