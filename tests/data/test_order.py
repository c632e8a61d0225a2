from __future__ import annotations

import itertools

import numpy as np
import pytest

from gecko_lab.data.order import OrderSampler, SampleOrder, ShuffledOrder, SpreadOrder


def epoch(order: SampleOrder, number: int) -> list[int]:
    return order.indices(number, 0, len(order)).tolist()


@pytest.mark.parametrize("counts", [[7], [5, 5, 5, 3], [0, 4, 0], [1] * 40, [13, 0, 11, 12, 1]])
@pytest.mark.parametrize("window", [1, 3, 16])
def test_every_epoch_is_a_permutation(counts: list[int], window: int) -> None:
    order = ShuffledOrder(counts, seed=3, window=window)
    for number in range(3):
        assert sorted(epoch(order, number)) == list(range(sum(counts)))


def test_position_alone_decides() -> None:
    order = ShuffledOrder([13, 0, 11, 12, 1], seed=3, window=2)
    expected = {number: epoch(order, number) for number in range(3)}
    assert len({tuple(indices) for indices in expected.values()}) == 3
    for number, start in itertools.product([2, 0, 1], [36, 0, 12, 5]):
        for stop in (start, start + 1, 37):
            fresh = ShuffledOrder([13, 0, 11, 12, 1], seed=3, window=2)
            assert fresh.indices(number, start, stop).tolist() == expected[number][start:stop]
            assert order.indices(number, start, stop).tolist() == expected[number][start:stop]
    assert epoch(ShuffledOrder([13, 0, 11, 12, 1], seed=4, window=2), 0) != expected[0]
    with pytest.raises(IndexError):
        order.indices(0, 30, 38)


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


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_ranks_share_each_global_batch(num_replicas: int, drop_last: bool) -> None:
    order = ShuffledOrder([50, 57], seed=0)
    global_batch = 8
    size = global_batch // num_replicas
    samplers = [
        OrderSampler(order, batch_size=size, num_replicas=num_replicas, rank=rank, drop_last=drop_last)
        for rank in range(num_replicas)
    ]
    for number in range(2):
        shares = []
        for sampler in samplers:
            sampler.set_epoch(number)
            samples = list(sampler)
            assert len(samples) == len(sampler)
            shares.append([samples[i : i + size] for i in range(0, len(samples), size)])
        assert len({len(share) for share in shares}) == 1, "ranks take different numbers of steps"
        together = [i for step in zip(*shares, strict=True) for part in step for i in part]
        kept = 104 if drop_last else 107 - 107 % num_replicas
        assert together == epoch(order, number)[:kept]
