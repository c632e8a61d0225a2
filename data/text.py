"""The LightningDataModule for text."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError
from gecko_lab.data.ngram import order2_bits_per_byte
from gecko_lab.data.order import OrderSampler, SampleOrder, ShuffledOrder, SpreadOrder
from gecko_lab.data.preparation import DEFAULT_CACHE_FOLDER, Preparation
from gecko_lab.data.split import TRAIN, VALIDATION
from gecko_lab.data.storage import TokenBlocks
from gecko_lab.data.tokenizers import Tokenizer, build_tokenizer


class TextDataModule(LightningDataModule):
    """Text, tokenized once and cut into sequences.

    A batch is `{"tokens": int64 [batch_size, sequence_length + 1]}`: inputs are `tokens[:, :-1]`, targets are
    `tokens[:, 1:]`. Documents stand back to back, each begun by BOS (`bos_id`). Training sequences come in a new
    permutation each epoch, the same whatever the number of workers and ranks; validation sequences always in the order
    of the documents.

    Args:
        sources: Files, folders, globs (.txt .md .py .jsonl .jsonl.gz .jsonl.zst .parquet), `stdlib` = the sources
            and help topics of Python's standard library, or one folder made by `gecko-lab data prepare`.
        validation_sources: Sources for validation; by default, part of the documents of `sources`.
        test_sources: Sources for test and predict; by default, the validation's.
        tokenizer: `bytes`, a Hugging Face tokenizer.json, a SentencePiece .model, a .tiktoken file, or a tiktoken name.
        sequence_length: Tokens that the model reads per sequence.
        batch_size: Sequences per device and step.
        validation_fraction: Part of the documents that are kept for validation.
        max_validation_sequences: Validate on that many sequences, spread evenly over the validation; by default all.
        split_seed: Of the choice of validation documents.
        seed: Of the order of training sequences.
        text_field: Field of .jsonl and column of .parquet that holds the text.
        folder: Where the prepared dataset stands; by default a folder of `cache_folder` named after its content.
        cache_folder: Holds prepared datasets that have no folder of their own.
        num_workers: Processes that load batches; 0 = the training process itself, which is fast enough for text.
        progress: Show the progress of preparing.

    Raises:
        DataError: an option that is out of range, an unknown tokenizer; when preparing, a source that is missing or
            broken; when loading, a split that is too short for one sequence or one batch.
    """

    def __init__(
        self,
        *,
        sources: str | list[str] = "stdlib",
        validation_sources: str | list[str] | None = None,
        test_sources: str | list[str] | None = None,
        tokenizer: str = "bytes",
        sequence_length: int = 2048,
        batch_size: int = 8,
        validation_fraction: float = 0.05,
        max_validation_sequences: int | None = None,
        split_seed: int = 0,
        seed: int = 0,
        text_field: str = "text",
        folder: str | None = None,
        cache_folder: str = DEFAULT_CACHE_FOLDER,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__()
        _require("sequence_length", sequence_length, 1)
        _require("batch_size", batch_size, 1)
        _require("num_workers", num_workers, 0)
        _require("seed", seed, 0)
        if max_validation_sequences is not None:
            _require("max_validation_sequences", max_validation_sequences, 1)
        if not 0 <= validation_fraction < 1:
            raise DataError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}.")
        self.sources = sources
        self.validation_sources = validation_sources
        self.test_sources = test_sources
        self.sequence_length = sequence_length
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.max_validation_sequences = max_validation_sequences
        self.split_seed = split_seed
        self.seed = seed
        self.text_field = text_field
        self.folder = folder
        self.cache_folder = cache_folder
        self.num_workers = num_workers
        self.progress = progress
        self.tokenizer: Tokenizer = build_tokenizer(tokenizer)
        self._datasets: dict[str, TokenDataset] = {}

    @property
    def vocab_size(self) -> int:
        """Number of token ids, BOS included."""
        return self.tokenizer.vocab_size

    @property
    def bos_id(self) -> int:
        """Id of the token that begins each document."""
        return self.tokenizer.bos_id

    @cached_property
    def token_bytes(self) -> Tensor:
        """Number of bytes that each id stands for, int32 `[vocab_size]`; 0 for BOS."""
        return self.tokenizer.token_bytes

    def prepare_data(self) -> None:
        """Prepares what is not there yet."""
        for preparation in self._preparations().values():
            preparation.run(self.progress)

    def setup(self, stage: str | None = None) -> None:
        """Opens the prepared datasets (and prepares them where nobody called `prepare_data`)."""
        self._open()

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Batches of the training sequences; the last sequences that fill no batch are left out."""
        dataset, split = self._split("train")
        blocks = self._blocks(dataset, split, "sources")
        return self._loader(blocks, ShuffledOrder(blocks.blocks_per_chunk, self.seed), drop_last=True)

    def val_dataloader(self) -> DataLoader[Tensor] | list[DataLoader[Tensor]]:
        """Batches of the validation sequences; an empty list where there is no validation."""
        if self.validation_sources is None and self.validation_fraction == 0:
            return []
        dataset, split = self._split("validation")
        blocks = self._blocks(dataset, split, "validation_sources or raise validation_fraction")
        order = SpreadOrder(len(blocks), self.max_validation_sequences)
        return self._loader(blocks, order, drop_last=False)

    def test_dataloader(self) -> DataLoader[Tensor] | list[DataLoader[Tensor]]:
        """Batches of the sequences of `test_sources`, else of the validation."""
        if self.test_sources is None:
            return self.val_dataloader()
        dataset, split = self._split("test")
        blocks = self._blocks(dataset, split, "test_sources")
        return self._loader(blocks, SpreadOrder(len(blocks)), drop_last=False)

    def predict_dataloader(self) -> DataLoader[Tensor] | list[DataLoader[Tensor]]:
        """The same batches as for test."""
        return self.test_dataloader()

    def ngram_bits_per_byte(self, order: int = 2) -> float:
        """Bits per byte of the byte model of that order.

        It is counted on all training documents and evaluated on all validation documents. For
        tokenizers other than `bytes`, the documents are the text that their tokens decode to. See
        `gecko_lab.data.ngram.order2_bits_per_byte` for the definition.

        Raises:
            DataError: an order other than 2, or no validation.
        """
        if order != 2:
            raise DataError(f"order must be 2, not {order}: no other byte model is implemented.")
        if self.validation_sources is None and self.validation_fraction == 0:
            raise DataError("validation_fraction is 0 and there are no validation_sources: nothing to evaluate on.")
        return order2_bits_per_byte(self._documents("train"), self._documents("validation"))

    def _documents(self, role: str) -> Iterator[bytes]:
        dataset, split = self._split(role)
        for ids in dataset.documents(split):
            if self.tokenizer.name == "bytes":
                yield ids.astype("uint8").tobytes()
            else:
                yield self.tokenizer.decode(ids).encode("utf-8", errors="replace")

    def _preparations(self) -> dict[str, Preparation]:
        """What is to be prepared, by role."""
        fraction = self.validation_fraction if self.validation_sources is None else 0.0
        found = {"train": self._preparation(self.sources, fraction, self.folder)}
        if self.validation_sources is not None:
            found["validation"] = self._preparation(self.validation_sources, 0.0, self._beside("validation"))
        if self.test_sources is not None:
            found["test"] = self._preparation(self.test_sources, 0.0, self._beside("test"))
        return found

    def _preparation(self, sources: str | list[str], fraction: float, folder: str | None) -> Preparation:
        return Preparation(
            sources,
            self.tokenizer,
            validation_fraction=fraction,
            split_seed=self.split_seed,
            text_field=self.text_field,
            folder=folder,
            cache_folder=self.cache_folder,
        )

    def _beside(self, role: str) -> str | None:
        return None if self.folder is None else f"{self.folder.rstrip('/')}-{role}"

    def _open(self) -> dict[str, TokenDataset]:
        if not self._datasets:
            self._datasets = {role: p.run(self.progress) for role, p in self._preparations().items()}
        return self._datasets

    def _split(self, role: str) -> tuple[TokenDataset, str]:
        datasets = self._open()
        if role == "validation" and role not in datasets:
            return datasets["train"], VALIDATION
        return datasets[role], TRAIN  # sources of their own are not split: all of them is the first split

    def _blocks(self, dataset: TokenDataset, split: str, remedy: str) -> TokenBlocks:
        blocks = dataset.blocks(split, self.sequence_length + 1)
        if len(blocks) == 0:
            raise DataError(
                f"{dataset.folder}: the {split} split has {dataset.num_tokens(split)} tokens, fewer than one sequence "
                f"(sequence_length + 1 = {self.sequence_length + 1}); shorten sequence_length, or give more {remedy}."
            )
        return blocks

    def _loader(self, blocks: TokenBlocks, order: SampleOrder, drop_last: bool) -> DataLoader[Tensor]:
        num_replicas, rank = self._replicas()
        sampler = OrderSampler(
            order, batch_size=self.batch_size, num_replicas=num_replicas, rank=rank, drop_last=drop_last
        )
        if len(sampler) == 0:
            raise DataError(
                f"{blocks.folder} has {len(order)} sequences of {self.sequence_length} tokens, fewer than one batch "
                f"({self.batch_size} x {num_replicas} devices); lower batch_size or sequence_length, or give more text."
            )
        return DataLoader(
            blocks,
            batch_size=self.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=self.num_workers,
            collate_fn=_as_batch,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def _replicas(self) -> tuple[int, int]:
        """(ranks that share the data, this one among them); under tensor parallelism fewer than the world."""
        shared = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (1, 0) if shared is None else (int(shared["num_replicas"]), int(shared["rank"]))


def _as_batch(tokens: Any) -> dict[str, Tensor]:
    return {"tokens": tokens}


def _require(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise DataError(f"{name} must be at least {minimum}, not {value}.")
