"""The LightningDataModule for synthetic tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gecko_lab.data.errors import DataError, require
from gecko_lab.data.order import Indices, SampleOrder
from gecko_lab.data.positioned import PositionedDataModule
from gecko_lab.data.synthetic import SyntheticTask

# Training counts its samples from 0 and never comes this far.
FIRST_VALIDATION_SAMPLE = 1 << 61
FIRST_TEST_SAMPLE = 1 << 62


class RecallDataModule(PositionedDataModule):
    """Samples of a synthetic task, made as they are needed: training never sees one twice, nor one of the evaluation.

    A batch is

    | key | | |
    |---|---|---|
    | `tokens` | int64 `[B, L + 1]` | inputs are `tokens[:, :-1]`, targets are `tokens[:, 1:]` |
    | `answers` | bool `[B, L]` | where the target is an exactly determined answer |
    | `distances` | int64 `[B, L]` | how far before the question the information stands; −1 where no answer is |
    | `samples` | int64 `[B]` | indices of the samples |

    Args:
        task: What is asked: `Passkey`, `MultiQueryAssociativeRecall`, `SelectiveCopying`, `Induction`,
            `KeyValueOverwrites`, or a class path of your own, with its options.
        evaluation_task: Task for validation, test and predict, for instance the same with longer samples; by default
            `task`.
        batch_size: Samples per device and step.
        samples_per_epoch: Samples that count as one pass over the training data.
        num_validation_samples: Samples of each validation.
        num_test_samples: Samples of test and predict.
        seed: Of all samples.
        num_workers: Processes that make batches; 0 = the training process itself.

    Raises:
        DataError: an option that is out of range.
    """

    bos_id: Any = None  # a sample is one document

    def __init__(
        self,
        *,
        task: SyntheticTask,
        evaluation_task: SyntheticTask | None = None,
        batch_size: int = 32,
        samples_per_epoch: int = 16384,
        num_validation_samples: int = 256,
        num_test_samples: int = 1024,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(sequence_length=task.length, batch_size=batch_size, num_workers=num_workers)
        require("samples_per_epoch", samples_per_epoch, 1)
        require("num_validation_samples", num_validation_samples, 0)
        require("num_test_samples", num_test_samples, 1)
        if not 0 <= seed < 2**32:
            raise DataError(f"seed must be at least 0 and below 2^32, not {seed}.")
        self.task = task
        self.evaluation_task = task if evaluation_task is None else evaluation_task
        self.samples_per_epoch = samples_per_epoch
        self.num_validation_samples = num_validation_samples
        self.num_test_samples = num_test_samples
        self.seed = seed

    @property
    def vocab_size(self) -> int:  # type: ignore[override]  # a plain attribute of others
        """Token ids of the tasks."""
        return max(self.task.vocab_size, self.evaluation_task.vocab_size)

    @property
    def fingerprint(self) -> str:
        """Hash of the training task, its options and the seed."""
        cls = type(self.task)
        described = [f"{cls.__module__}.{cls.__qualname__}", self.task.options, self.seed]
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def train_dataloader(self) -> DataLoader[Any]:
        """New samples without end."""
        order = ConsecutiveOrder(0, self.samples_per_epoch)
        return self.training_loader(TaskSamples(self.task, self.seed), order, "samples_per_epoch")

    def val_dataloader(self) -> DataLoader[Any] | list[DataLoader[Any]]:
        """The validation samples, the same each time; an empty list where there are to be none."""
        if self.num_validation_samples == 0:
            return []
        return self._evaluation(FIRST_VALIDATION_SAMPLE, self.num_validation_samples, "num_validation_samples")

    def test_dataloader(self) -> DataLoader[Any]:
        """The test samples, others than the validation's."""
        return self._evaluation(FIRST_TEST_SAMPLE, self.num_test_samples, "num_test_samples")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The same batches as for test."""
        return self.test_dataloader()

    def _evaluation(self, first: int, count: int, what: str) -> DataLoader[Any]:
        samples = TaskSamples(self.evaluation_task, self.seed)
        return self.evaluation_loader(samples, ConsecutiveOrder(first, count), what)


class TaskSamples(Dataset[Any]):
    """Batches of a task's samples by their indices.

    Arguments:
        task: what is asked.
        seed: of the samples.
    """

    def __init__(self, task: SyntheticTask, seed: int) -> None:
        self.task = task
        self.seed = seed

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """A batch; see `RecallDataModule`."""
        samples = [self.task.sample(self.seed, index) for index in indices]
        return {
            "tokens": torch.from_numpy(np.stack([sample.tokens for sample in samples])),
            "answers": torch.from_numpy(np.stack([sample.answers for sample in samples])),
            "distances": torch.from_numpy(np.stack([sample.distances for sample in samples])),
            "samples": torch.tensor(indices, dtype=torch.int64),
        }


class ConsecutiveOrder(SampleOrder):
    """One index after another, without end.

    Arguments:
        first: the index at position 0.
        length: samples that count as one pass.
    """

    def __init__(self, first: int, length: int) -> None:
        self._first = first
        self._length = length

    def __len__(self) -> int:
        return self._length

    def indices(self, start: int, stop: int) -> Indices:
        return np.arange(self._first + start, self._first + stop, dtype=np.int64)
