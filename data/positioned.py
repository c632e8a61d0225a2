"""What every datamodule here is: samples by position, and a position that a checkpoint keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from gecko_lab.data.errors import DataError, require
from gecko_lab.data.loader import batch_loader
from gecko_lab.data.order import EvaluationSampler, SampleOrder, TrainingSampler


class PositionedDataModule(LightningDataModule, ABC):
    """A datamodule whose training samples are a function of their position, and that knows how far training is.

    A subclass gives datasets whose `__getitems__` turns a list of sample indices into a batch, and orders.

    Args:
        sequence_length: Tokens that the model reads per sequence.
        batch_size: Sequences per device and step.
        num_workers: Processes that load batches; 0 = the training process itself.

    Attributes:
        position: samples that training has been given so far, over all ranks: those at positions below it.
        vocab_size: number of token ids.
        bos_id: id of the token that begins each document.
    """

    vocab_size: int
    bos_id: int

    def __init__(self, *, sequence_length: int, batch_size: int, num_workers: int) -> None:
        super().__init__()
        require("sequence_length", sequence_length, 1)
        require("batch_size", batch_size, 1)
        require("num_workers", num_workers, 0)
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.position = 0

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hash of the training data, known once it is set up: equal where the same positions hold the same samples."""

    @property
    def global_batch_size(self) -> int:
        """Sequences of all ranks in one batch."""
        return self.batch_size * self.replicas()[0]

    def replicas(self) -> tuple[int, int]:
        """(ranks that share the data, this one among them); under tensor parallelism fewer than the world."""
        shared = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (1, 0) if shared is None else (int(shared["num_replicas"]), int(shared["rank"]))

    def training_loader(self, samples: Dataset[Any], order: SampleOrder, what: str) -> DataLoader[Any]:
        """Batches of the order from `position` on.

        Args:
            samples: by index.
            order: of the indices.
            what: names the samples in a message.

        Raises:
            DataError: one pass does not fill one global batch.
        """
        num_replicas, rank = self.replicas()
        sampler = TrainingSampler(
            order,
            batch_size=self.batch_size,
            num_replicas=num_replicas,
            rank=rank,
            position=lambda: self.position,
            batches_per_step=1 if self.trainer is None else self.trainer.accumulate_grad_batches,
        )
        if len(sampler) == 0:
            raise DataError(
                f"{what} has {len(order)} sequences of {self.sequence_length} tokens, fewer than one batch "
                f"({self.batch_size} x {num_replicas} devices); lower batch_size or sequence_length, or give more text."
            )
        return self._loader(samples, sampler)

    def evaluation_loader(self, samples: Dataset[Any], order: SampleOrder, what: str) -> DataLoader[Any]:
        """One pass over the order, in batches; the arguments are those of `training_loader`."""
        num_replicas, rank = self.replicas()
        sampler = EvaluationSampler(order, batch_size=self.batch_size, num_replicas=num_replicas, rank=rank)
        if len(sampler) == 0:
            raise DataError(f"{what} has {len(order)} sequences, fewer than one for each of {num_replicas} devices.")
        return self._loader(samples, sampler)

    def _loader(self, samples: Dataset[Any], sampler: TrainingSampler | EvaluationSampler) -> DataLoader[Any]:
        return batch_loader(samples, sampler, batch_size=self.batch_size, num_workers=self.num_workers)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count what training takes; loaders may be batches ahead."""
        if self.trainer is not None and self.trainer.training:
            self.position += self.global_batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The position, for a checkpoint."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the position of a checkpoint, whatever the number of ranks."""
        self.position = int(state_dict["position"])
