from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from gecko_lab.data.errors import DataError
from gecko_lab.data.order import ShuffledOrder, SpreadOrder
from gecko_lab.data.positioned import PositionedDataModule


class Squares(Dataset[Any]):
    """Sample i is i²; number 13 is damaged where there is one."""

    def __init__(self, damaged: bool = False) -> None:
        self.damaged = damaged

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        if self.damaged and 13 in indices:
            raise DataError("number 13 is damaged; take another.")
        return {"samples": torch.tensor(indices), "squares": torch.tensor(indices) ** 2}


class SquaresModule(PositionedDataModule):
    damaged = False
    fingerprint = "squares"

    def train_dataloader(self) -> DataLoader[Any]:
        return self.training_loader(Squares(self.damaged), ShuffledOrder([10, 13], seed=0), "squares")

    def val_dataloader(self) -> DataLoader[Any]:
        return self.evaluation_loader(Squares(), SpreadOrder(7), "the squares")


def module(batch_size: int = 4, num_workers: int = 0, num_replicas: int = 1, rank: int = 0) -> SquaresModule:
    data = SquaresModule(sequence_length=1, batch_size=batch_size, num_workers=num_workers)
    shared = {"num_replicas": num_replicas, "rank": rank}
    data.trainer = SimpleNamespace(distributed_sampler_kwargs=shared, training=True, accumulate_grad_batches=1)  # type: ignore[assignment]
    return data


def take(data: SquaresModule, loader: Any, number: int) -> list[int]:
    """The samples of the first batches, as training would take them."""
    samples: list[int] = []
    for batch in itertools.islice(loader, number):
        assert torch.equal(batch["squares"], batch["samples"] ** 2)
        samples += data.on_before_batch_transfer(batch, 0)["samples"].tolist()
    return samples


@pytest.mark.parametrize("num_workers", [0, 1])
def test_position_counts_what_is_taken_and_not_what_is_loaded(num_workers: int) -> None:
    data = module(num_workers=num_workers)
    loader = data.train_dataloader()
    first = take(data, loader, 7)
    assert data.position == 28
    assert data.state_dict() == {"position": 28}
    again = take(data, loader, 3)  # a new iteration goes on, although workers were ahead
    order = ShuffledOrder([10, 13], seed=0)
    assert first + again == order.indices(0, 40).tolist()
    other = module(num_workers=num_workers)
    other.load_state_dict({"position": 28})
    assert take(other, other.train_dataloader(), 3) == again


def test_evaluation_does_not_count() -> None:
    data = module()
    data.trainer.training = False  # type: ignore[union-attr]
    assert take(data, data.val_dataloader(), 9) == list(range(7))
    assert data.position == 0


def test_ranks() -> None:
    ranks = [module(batch_size=2, num_replicas=3, rank=rank) for rank in range(3)]
    assert [data.global_batch_size for data in ranks] == [6, 6, 6]
    assert SquaresModule(sequence_length=1, batch_size=2, num_workers=0).replicas() == (1, 0)
    taken = [take(data, data.train_dataloader(), 1) for data in ranks]
    assert list(itertools.chain(*taken)) == ShuffledOrder([10, 13], seed=0).indices(0, 6).tolist()
    assert [data.position for data in ranks] == [6, 6, 6]


def test_too_few_samples() -> None:
    with pytest.raises(
        DataError, match=r"squares has 23 sequences of 1 tokens, fewer than one batch \(8 x 3 devices\)"
    ):
        module(batch_size=8, num_replicas=3).train_dataloader()
    with pytest.raises(DataError, match="the squares has 7 sequences, fewer than one for each of 8 devices"):
        module(num_replicas=8).val_dataloader()


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_data_is_one_message(num_workers: int) -> None:
    data = module(num_workers=num_workers)
    data.damaged = True
    with pytest.raises(DataError, match=r"^number 13 is damaged; take another\.$"):
        take(data, data.train_dataloader(), 6)
