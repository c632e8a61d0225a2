import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.recall_accuracy import RecallAccuracy


def test_scores_are_those_counted_by_hand() -> None:
    distances = torch.tensor([[-1, 0, 1], [-1, 64, 127], [128, -1, -1]])
    right = torch.tensor([[False, True, True], [True, False, True], [True, False, False]])
    metric = RecallAccuracy()
    metric.update(torch.tensor([1.0, 2.0, 6.0]), right, distances)
    scores = metric.compute()
    assert scores["loss"] == 3.0
    assert scores["accuracy"] == pytest.approx(4 / 5)
    assert scores["exact_match"] == pytest.approx(2 / 3)
    assert {name: float(value) for name, value in scores["distances"].items()} == {
        "0000000-0000000": 1.0,
        "0000001-0000001": 1.0,
        "0000064-0000127": 0.5,
        "0000128-0000255": 1.0,
    }


def test_nothing_counted_gives_no_score() -> None:
    metric = RecallAccuracy()
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert metric.compute() == {"distances": {}}


@given(st.lists(st.integers(-1, 2**23 - 1), min_size=2, max_size=30), st.integers(0, 2**30 - 1), st.data())
def test_any_split_over_batches_and_devices_gives_the_scores_of_the_whole(
    values: list[int], bits: int, data: st.DataObject
) -> None:
    distances = torch.tensor(values)[:, None]
    right = torch.tensor([bool(bits >> i & 1) for i in range(len(values))])[:, None]
    losses = torch.arange(float(len(values)))
    cuts = sorted(data.draw(st.lists(st.integers(1, len(values) - 1), max_size=3)))
    whole, first, second = RecallAccuracy(), RecallAccuracy(), RecallAccuracy()
    whole.update(losses, right, distances)
    for i, (start, stop) in enumerate(itertools.pairwise([0, *cuts, len(values)])):
        (first, second)[i % 2].update(losses[start:stop], right[start:stop], distances[start:stop])
    for name, reduce in first._reductions.items():  # as devices are put together
        total = reduce(torch.stack([getattr(first, name), getattr(second, name)]))  # type: ignore[operator, misc]
        assert torch.equal(total, getattr(whole, name)), name
    names = list(whole.compute()["distances"])
    assert names == sorted(names)
    for value in values:
        assert value < 0 or any(int(low) <= value <= int(high) for low, high in (name.split("-") for name in names))
