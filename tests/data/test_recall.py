from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser

from gecko_lab.data.errors import DataError
from gecko_lab.data.recall import FIRST_TEST_SAMPLE, FIRST_VALIDATION_SAMPLE, ConsecutiveOrder, RecallDataModule
from gecko_lab.data.synthetic import Induction, KeyValueOverwrites, Passkey, SyntheticTask

TASK = Induction(length=12)


def module(**options: Any) -> RecallDataModule:
    return RecallDataModule(
        **({"task": TASK, "batch_size": 4, "samples_per_epoch": 40, "num_validation_samples": 10} | options)
    )


def take(loader: Any, number: int) -> list[int]:
    """The samples of the first batches."""
    return [index for batch in itertools.islice(loader, number) for index in batch["samples"].tolist()]


def test_batch_holds_the_samples_of_the_task() -> None:
    task = KeyValueOverwrites(length=120, num_reads=3)
    for batch in itertools.islice(module(task=task, seed=7).train_dataloader(), 2):
        assert set(batch) == {"tokens", "answers", "distances", "samples"}
        assert batch["tokens"].shape == (4, 121)
        assert batch["answers"].shape == batch["distances"].shape == (4, 120)
        assert batch["answers"].dtype == torch.bool
        assert {batch[name].dtype for name in ("tokens", "distances", "samples")} == {torch.int64}
        for row, index in enumerate(batch["samples"].tolist()):
            tokens, distances = task.sample(7, index)
            assert batch["tokens"][row].tolist() == tokens.tolist()
            assert batch["distances"][row].tolist() == distances.tolist()
            assert batch["answers"][row].tolist() == (distances >= 0).tolist()


def test_module_says_what_a_network_must_know() -> None:
    longer = Induction(length=24, vocab_size=20)
    data = module(evaluation_task=longer)
    assert (data.sequence_length, data.vocab_size, data.bos_id, data.batch_size) == (12, 20, None, 4)
    assert next(iter(data.val_dataloader()))["tokens"].shape == (4, 25)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("num_replicas", [1, 2, 4])
def test_training_goes_on_where_it_stands_on_any_ranks_and_workers(num_replicas: int, num_workers: int) -> None:
    shares = []
    for rank in range(num_replicas):
        data = module(batch_size=4 // num_replicas, num_workers=num_workers)
        data.trainer = SimpleNamespace(  # type: ignore[assignment]
            distributed_sampler_kwargs={"num_replicas": num_replicas, "rank": rank}, accumulate_grad_batches=1
        )
        data.load_state_dict({"position": 36})  # the last batch of the first pass
        batches = itertools.islice(data.train_dataloader(), 3)
        shares.append([batch["samples"].tolist() for batch in batches])
    together = [index for step in zip(*shares, strict=True) for share in step for index in share]
    assert together == list(range(36, 48))


def test_training_validation_and_test_share_no_sample() -> None:
    data = module(num_test_samples=6)
    assert take(data.train_dataloader(), 12) == list(range(48))
    validation, test = (take(loader, 100) for loader in (data.val_dataloader(), data.test_dataloader()))
    assert validation == list(range(FIRST_VALIDATION_SAMPLE, FIRST_VALIDATION_SAMPLE + 10))
    assert test == list(range(FIRST_TEST_SAMPLE, FIRST_TEST_SAMPLE + 6))
    assert take(data.val_dataloader(), 100) == validation, "the same at each validation"
    assert module(num_validation_samples=0).val_dataloader() == []


def test_consecutive_order_is_endless() -> None:
    order = ConsecutiveOrder(5, 3)
    assert len(order) == 3
    assert order.indices(2, 6).tolist() == [7, 8, 9, 10]
    assert order.indices(0, 1).dtype == np.int64


def test_fingerprint_names_the_training_data() -> None:
    fingerprint = module().fingerprint
    same = [{"task": Induction(length=12)}, {"batch_size": 2}, {"evaluation_task": Induction(length=24)}]
    assert {module(**options).fingerprint for options in same} == {fingerprint}
    others = [{"seed": 1}, {"task": Induction(length=13)}, {"task": Induction(length=12, vocab_size=15)}]
    others += [{"task": Passkey(length=40)}, {"task": Passkey(length=40, filler="repeated")}]
    assert len({fingerprint, *(module(**options).fingerprint for options in others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"batch_size": 0}, "batch_size"),
        ({"samples_per_epoch": 0}, "samples_per_epoch"),
        ({"num_validation_samples": -1}, "num_validation_samples"),
        ({"num_test_samples": 0}, "num_test_samples"),
    ],
)
def test_module_refuses_what_cannot_be(options: dict[str, int], name: str) -> None:
    with pytest.raises(DataError, match=name):
        module(**options)


def test_module_refuses_an_epoch_shorter_than_a_batch() -> None:
    with pytest.raises(DataError, match="samples_per_epoch"):
        module(samples_per_epoch=3).train_dataloader()


def parse(value: Any, *arguments: str) -> SyntheticTask:
    """The task of a YAML file's `task:` and further arguments."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(RecallDataModule, "data")
    configuration = parser.parse_object({"data": {"task": value}})
    configuration = parser.parse_args([*arguments], namespace=configuration) if arguments else configuration
    return parser.instantiate_classes(configuration).data.task


@pytest.mark.filterwarnings(r"ignore:\s*``instantiate_classes`` was deprecated")
def test_yaml_names_a_task_with_options_or_without() -> None:
    assert parse("Passkey").options == Passkey().options
    assert parse({"class_path": "Passkey", "init_args": {"length": 64}}).options == Passkey(length=64).options
    assert parse("Induction", "--data.task.length=99").options == Induction(length=99).options


@pytest.mark.parametrize(
    "value",
    [
        "Passkeys",
        {"class_path": "Passkey", "init_args": {"lengths": 64}},
        {"class_path": "Passkey", "init_args": {"filler": "x"}},
    ],
)
def test_yaml_of_an_unknown_task_or_option_is_refused(value: Any) -> None:
    with pytest.raises(ArgumentError):
        parse(value)
