"""The order of training samples is one and the same, however many workers, ranks and restarts there are."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from gecko_lab.data.text import TextDataModule
from tests.data.prepared import documents_of, write_dataset

SEQUENCE_LENGTH = 8
GLOBAL_BATCH = 100
SAMPLES = 10_000
STEPS = SAMPLES // GLOBAL_BATCH
PACKINGS = ("contiguous", "best_fit", "carried", "mixture")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two prepared datasets of about 3,000 and 1,000 samples in many chunks: 10,000 samples are a few passes."""
    folder = tmp_path_factory.mktemp("everywhere")
    for name, number in (("large", 1500), ("small", 500)):
        lengths = np.random.default_rng(number).integers(1, 32, number).tolist()
        write_dataset(folder / name, documents_of(lengths, seed=number), chunk_tokens=1000)
    return folder


def module(folder: Path, packing: str, num_replicas: int = 1, rank: int = 0, num_workers: int = 0) -> TextDataModule:
    options: dict[str, Any] = {"sources": str(folder / "large"), "packing": packing}
    if packing == "mixture":
        sources = {name: {"sources": str(folder / name), "weight": 1} for name in ("large", "small")}
        options = {"mixture": sources}
    data = TextDataModule(
        sequence_length=SEQUENCE_LENGTH,
        batch_size=GLOBAL_BATCH // num_replicas,
        num_workers=num_workers,
        progress=False,
        seed=3,
        **options,
    )
    shared = {"num_replicas": num_replicas, "rank": rank}
    data.trainer = SimpleNamespace(distributed_sampler_kwargs=shared, training=True, accumulate_grad_batches=1)  # type: ignore[assignment]
    return data


def global_batches(
    folder: Path, packing: str, num_replicas: int = 1, num_workers: int = 0, state: dict[str, Any] | None = None
) -> Iterator[tuple[torch.Tensor, dict[str, Any]]]:
    """The tokens of all ranks' batches put together, and the state of the data after each."""
    ranks = [module(folder, packing, num_replicas, rank, num_workers) for rank in range(num_replicas)]
    for data in ranks:
        if state is not None:
            data.load_state_dict(state)
    for batches in zip(*(data.train_dataloader() for data in ranks), strict=True):
        for data, batch in zip(ranks, batches, strict=True):
            data.on_before_batch_transfer(batch, 0)
        assert len({data.position for data in ranks}) == 1
        yield torch.cat([batch["tokens"] for batch in batches]), ranks[0].state_dict()


def digest(batches: Any) -> str:
    found = hashlib.blake2b()
    for tokens, _ in batches:
        found.update(tokens.numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def straight(folder: Path) -> dict[str, list[tuple[torch.Tensor, dict[str, Any]]]]:
    """The first samples of each packing, read by one rank without workers."""
    return {packing: list(itertools.islice(global_batches(folder, packing), STEPS)) for packing in PACKINGS}


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")  # the machine may have fewer cores
@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("num_replicas", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [0, 1, 4])
def test_first_samples_are_the_same(
    folder: Path, straight: dict[str, Any], packing: str, num_replicas: int, num_workers: int
) -> None:
    found = itertools.islice(global_batches(folder, packing, num_replicas, num_workers), STEPS)
    assert digest(found) == digest(straight[packing])


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_resumed_order_goes_on_where_it_stopped(folder: Path, straight: dict[str, Any], packing: str) -> None:
    draw = random.Random(packing)
    for number in range(17):
        steps = draw.randrange(1, STEPS - 4)
        before, after = draw.choice([1, 2, 4]), draw.choice([1, 2, 4])
        num_workers = 1 if number in (3, 9) else 0
        if number % 4 == 0:  # the state as those ranks left it, and not that of one rank
            *_, (tokens, state) = itertools.islice(global_batches(folder, packing, before), steps)
            assert torch.equal(tokens, straight[packing][steps - 1][0])
        else:
            state = straight[packing][steps - 1][1]
        resumed = itertools.islice(global_batches(folder, packing, after, num_workers, state), 4)
        for (tokens, _), (expected, _) in zip(resumed, straight[packing][steps : steps + 4], strict=True):
            assert torch.equal(tokens, expected)


def test_samples_are_not_those_of_another_seed_or_packing(straight: dict[str, Any]) -> None:
    assert len({digest(batches) for batches in straight.values()}) == len(PACKINGS)
    assert all(len({tokens.numpy().tobytes() for tokens, _ in batches}) == STEPS for batches in straight.values())
