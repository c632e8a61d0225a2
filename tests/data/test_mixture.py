from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.data.errors import DataError
from gecko_lab.data.mixture import (
    MixtureOrder,
    MixtureSequences,
    MixtureSource,
    SpreadMixtureOrder,
    _sum_of_floors,
    read_mixture,
)
from gecko_lab.data.order import Indices, SampleOrder, ShuffledOrder
from gecko_lab.data.sequences import ContiguousSequences
from tests.data.prepared import documents_of, write_dataset

MANY = 10**12  # more samples than any test reads


class Counting(SampleOrder):
    """The sample at position p is p."""

    def __len__(self) -> int:
        return MANY

    def indices(self, start: int, stop: int) -> Indices:
        return np.arange(start, stop, dtype=np.int64)


def mixture_of(weights: list[float], seed: int = 0, block: int = 64) -> MixtureOrder:
    return MixtureOrder([Counting()] * len(weights), [MANY] * len(weights), weights, seed, block)


mixtures = st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6)


@given(weights=mixtures, seed=st.integers(0, 1000), block=st.sampled_from([1, 7, 64]))
def test_sources_come_in_their_own_order_and_by_weight(weights: list[float], seed: int, block: int) -> None:
    order = mixture_of(weights, seed, block)
    indices = order.indices(0, 600)
    for source, weight in enumerate(weights):
        of_source = indices // MANY == source
        assert (indices[of_source] % MANY).tolist() == list(range(of_source.sum()))
        excess = np.abs(np.cumsum(of_source) - weight / sum(weights) * np.arange(1, 601))
        assert excess.max() <= 6 + block
        assert excess[block - 1 :: block].max() <= 6, "at the end of a block"


@given(weights=mixtures, seed=st.integers(0, 1000), blocks=st.integers(0, 10**9))
def test_counts_stay_near_the_weights(weights: list[float], seed: int, blocks: int) -> None:
    counts = mixture_of(weights, seed).counts(blocks)
    assert sum(counts) == 64 * blocks
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - 64 * blocks * weight / sum(weights)) <= 24


@given(
    weights=mixtures,
    seed=st.integers(0, 100),
    start=st.integers(0, 10**9),
    lengths=st.lists(st.integers(0, 150), max_size=5),
)
def test_position_alone_decides(weights: list[float], seed: int, start: int, lengths: list[int]) -> None:
    orders = [ShuffledOrder([3, 5 + k], seed) for k in range(len(weights))]
    sizes = [len(order) for order in orders]
    expected = MixtureOrder(orders, sizes, weights, seed).indices(start, start + sum(lengths))
    order = MixtureOrder(orders, sizes, weights, seed)
    found = [np.empty(0, dtype=np.int64)]
    for length in lengths:
        found.append(order.indices(start, start + length))
        start += length
    assert np.concatenate(found).tolist() == expected.tolist()


def test_mixture_order_never_changes() -> None:
    """A run that was begun must go on as it began, whatever was installed since."""
    order = MixtureOrder([ShuffledOrder([4], 0), ShuffledOrder([5], 0)], [4, 5], [1, 3], seed=0, block=8)
    assert len(order) == 9
    assert order.indices(0, 16).tolist() == [8, 7, 3, 5, 1, 4, 6, 6, 5, 8, 4, 0, 7, 7, 2, 8]
    assert mixture_of([2, 6]).indices(0, 999).tolist() == mixture_of([0.25, 0.75]).indices(0, 999).tolist()
    assert mixture_of([1, 1], seed=1).indices(0, 99).tolist() != mixture_of([1, 1], seed=2).indices(0, 99).tolist()


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 200), st.integers(0, 200))
def test_sum_of_floors(count: int, divisor: int, factor: int, offset: int) -> None:
    expected = sum((factor * i + offset) // divisor for i in range(count))
    assert _sum_of_floors(count, divisor, factor, offset) == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.none() | st.integers(1, 100))
def test_validation_is_spread_in_proportion(sizes: list[int], limit: int | None) -> None:
    order = SpreadMixtureOrder(sizes, limit)
    indices = order.indices(0, len(order))
    assert (np.diff(indices) > 0).all()
    counts = np.histogram(indices, np.cumsum([0, *sizes]))[0]
    if limit is None or limit >= sum(sizes):
        assert counts.tolist() == sizes
    else:
        assert np.abs(counts - np.maximum(np.array(sizes) * limit / sum(sizes), 1)).max() <= 1
    assert order.indices(len(order), 2 * len(order)).tolist() == indices.tolist()


def test_sequences_of_several_sources(tmp_path: Path) -> None:
    parts = [
        ContiguousSequences(write_dataset(tmp_path / str(k), documents_of([n], seed=k)).stream("train"), 10)
        for k, n in enumerate([31, 12, 58])
    ]
    sequences = MixtureSequences(parts)
    assert len(sequences) == 3 + 1 + 5
    batch = pickle.loads(pickle.dumps(sequences)).__getitems__([8, 0, 3, 2, 4])
    assert batch["sources"].tolist() == [2, 0, 1, 0, 2]
    assert batch["samples"].tolist() == [8, 0, 3, 2, 4]
    for row, (source, index) in enumerate([(2, 4), (0, 0), (1, 0), (0, 2), (2, 0)]):
        assert torch.equal(batch["tokens"][row], parts[source][index]["tokens"])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_must_be_positive(weight: float) -> None:
    with pytest.raises(DataError, match=r"mixture\.books\.weight must be a positive number"):
        read_mixture({"code": MixtureSource("a", 1.0), "books": MixtureSource("b", weight)})
    with pytest.raises(DataError, match="it has no source"):
        read_mixture({})
