from __future__ import annotations

import numpy as np
import pytest

from gecko_lab.data.order import EvaluationSampler, SampleOrder, ShuffledOrder, SpreadOrder, TrainingSampler


def epoch(order: SampleOrder, number: int) -> list[int]:
    return order.indices(number * len(order), (number + 1) * len(order)).tolist()


@pytest.mark.parametrize("counts", [[7], [5, 5, 5, 3], [0, 4, 0], [1] * 40, [13, 0, 11, 12, 1]])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_every_epoch_is_a_permutation(counts: list[int], window: int) -> None:
    order = ShuffledOrder(counts, seed=3, window=window)
    for number in range(3):
        assert sorted(epoch(order, number)) == list(range(sum(counts)))


def test_position_alone_decides() -> None:
    order = ShuffledOrder([13, 0, 11, 12, 1], seed=3, window=2)
    expected = [index for number in range(3) for index in epoch(order, number)]
    assert len({tuple(expected[start : start + 37]) for start in (0, 37, 74)}) == 3
    for start in [80, 0, 36, 37, 12, 5]:
        for stop in (start, start + 1, 90, 111):
            fresh = ShuffledOrder([13, 0, 11, 12, 1], seed=3, window=2)
            assert fresh.indices(start, stop).tolist() == expected[start:stop]
            assert order.indices(start, stop).tolist() == expected[start:stop]
    assert epoch(ShuffledOrder([13, 0, 11, 12, 1], seed=4, window=2), 0) != expected[:37]


def test_order_never_changes() -> None:
    """A run that was begun must go on as it began, whatever was installed since."""
    assert epoch(ShuffledOrder([4, 4], seed=0), 0) == [3, 2, 0, 1, 7, 5, 4, 6]
    assert epoch(ShuffledOrder([4, 4], seed=1), 0) == [3, 1, 7, 4, 5, 0, 2, 6]


def test_window_bounds_how_many_chunks_are_read_at_once() -> None:
    chunk_of = np.array(epoch(ShuffledOrder([10] * 8, seed=0, window=2), 0)) // 10
    for start in range(0, 80, 20):
        assert len(set(chunk_of[start : start + 20].tolist())) == 2


@pytest.mark.parametrize(
    ("count", "limit", "expected"), [(5, None, [0, 1, 2, 3, 4]), (9, 3, [0, 3, 6]), (2, 5, [0, 1])]
)
def test_spread(count: int, limit: int | None, expected: list[int]) -> None:
    assert epoch(SpreadOrder(count, limit), 1) == expected


@pytest.mark.parametrize("num_replicas", [1, 2, 4])
@pytest.mark.parametrize("position", [0, 8, 96, 107, 1000])
def test_ranks_share_each_global_batch_from_the_position_on(num_replicas: int, position: int) -> None:
    order = ShuffledOrder([50, 57], seed=0)
    size = 8 // num_replicas
    samplers = [
        TrainingSampler(order, batch_size=size, num_replicas=num_replicas, rank=rank, position=lambda: position)
        for rank in range(num_replicas)
    ]
    assert all(len(sampler) == 104 // num_replicas for sampler in samplers)
    shares = [iter(sampler) for sampler in samplers]
    together = [next(share) for _ in range(30) for share in shares for _ in range(size)]
    assert together == order.indices(position, position + 240).tolist()


@pytest.mark.parametrize("count", [0, 3, 8, 107])
@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_ranks_share_one_pass(count: int, num_replicas: int) -> None:
    order = SpreadOrder(count)
    size = 8 // num_replicas
    shares = []
    for rank in range(num_replicas):
        sampler = EvaluationSampler(order, batch_size=size, num_replicas=num_replicas, rank=rank)
        shares.append([list(sampler)[i : i + size] for i in range(0, len(sampler), size)])
        assert sum(map(len, shares[-1])) == len(list(sampler)) == len(sampler)
    assert len({len(share) for share in shares}) == 1, "ranks take different numbers of steps"
    together = [i for step in zip(*shares, strict=True) for part in step for i in part]
    assert together == list(range(count - count % num_replicas))
