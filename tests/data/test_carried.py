from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.data.carried import CarriedOrder, CarriedSequences, Positions
from gecko_lab.data.sequences import ContiguousSequences
from tests.data.prepared import documents_of, write_dataset


@given(lanes=st.integers(1, 9), more=st.integers(0, 40), seed=st.integers(0, 99), first=st.integers(0, 10**6))
def test_a_row_that_is_not_fresh_continues_the_row_before(lanes: int, more: int, seed: int, first: int) -> None:
    num_samples = lanes + more
    order = CarriedOrder(num_samples, lanes, seed)
    steps = num_samples // lanes
    start = first * len(order)
    samples, fresh = order.at(np.arange(start, start + 2 * len(order), dtype=np.int64))
    assert samples.tolist() == order.indices(start, start + 2 * len(order)).tolist()
    rows, new = samples.reshape(-1, lanes), fresh.reshape(-1, lanes)
    assert new[0].all()
    assert new[steps].all()
    assert new.sum() - new[0].sum() - new[steps].sum() <= 2, "only the wrap round is fresh within a pass"
    assert (rows[1:][~new[1:]] == rows[:-1][~new[1:]] + 1).all()
    for number in range(2):
        once = samples[number * len(order) : (number + 1) * len(order)]
        assert len(set(once.tolist())) == len(order) == lanes * steps
    assert samples.min() >= 0
    assert samples.max() < num_samples


def test_passes_begin_elsewhere() -> None:
    order = CarriedOrder(1000, 4, seed=0)
    begins = {int(order.indices(number * len(order), number * len(order) + 1)[0]) for number in range(20)}
    assert len(begins) == 20
    assert CarriedOrder(1000, 4, seed=1).indices(0, 1) != order.indices(0, 1)


def test_carried_sequences_are_asked_for_by_position(tmp_path: Path) -> None:
    stream = write_dataset(tmp_path / "dataset", documents_of([101])).stream("train")
    order = CarriedOrder(10, 3, seed=0)
    sequences = CarriedSequences(ContiguousSequences(stream, 10), order)
    positions = [12, 13, 14, 9, 10, 11]
    batch = sequences.__getitems__(positions)
    assert batch["fresh"].tolist() == order.at(np.array(positions))[1].tolist()
    assert batch["samples"].tolist() == order.at(np.array(positions))[0].tolist()
    for row, sample in enumerate(batch["samples"].tolist()):
        assert batch["tokens"][row].tolist() == stream.read(sample * 10, sample * 10 + 11).tolist()
    assert Positions(9).indices(7, 12).tolist() == [7, 8, 9, 10, 11]
    assert len(Positions(9)) == 9
