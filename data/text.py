"""The LightningDataModule for text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal, get_args

from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from gecko_lab.data.carried import CarriedOrder, CarriedSequences, Positions
from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError, require, suggestion
from gecko_lab.data.folders import DEFAULT_CACHE_BYTES
from gecko_lab.data.mixture import (
    MixtureOrder,
    MixtureSequences,
    MixtureSource,
    SpreadMixtureOrder,
    read_mixture,
)
from gecko_lab.data.ngram import order2_bits_per_byte
from gecko_lab.data.order import SampleOrder, ShuffledOrder, SpreadOrder
from gecko_lab.data.packing import BestFitSequences
from gecko_lab.data.positioned import PositionedDataModule
from gecko_lab.data.preparation import DEFAULT_CACHE_FOLDER, Preparation
from gecko_lab.data.sequences import Batch, ContiguousSequences, Sequences
from gecko_lab.data.split import TRAIN, VALIDATION
from gecko_lab.data.stream import TokenStream
from gecko_lab.data.tokenizers import Tokenizer, build_tokenizer

Packing = Literal["contiguous", "best_fit", "carried"]


class TextDataModule(PositionedDataModule):
    """Text, tokenized once and cut into sequences.

    A batch holds `tokens` int64 `[B, L + 1]`, of which inputs are `[:, :-1]` and targets `[:, 1:]`, and `samples` int64
    `[B]`, the index of each sequence. From a mixture it also holds `sources` int64 `[B]`; with packing best_fit `mask`
    bool `[B, L]`, the targets that count; with packing carried `fresh` bool `[B]`, the rows that do not continue the
    same row of the batch before.

    Each document begins with BOS (`bos_id`). Training sequences come in a new permutation in each pass, a function of
    data, seed and position whatever the number of workers and ranks. Validation, test and predict sequences are always
    contiguous and in the order of the documents, so that losses compare between packings.

    Args:
        sources: Files, folders, globs (.txt .md .py .jsonl .jsonl.gz .jsonl.zst .parquet), `stdlib` = the sources
            and help topics of Python's standard library, or one folder or URL of what `gecko-lab data prepare` made. By
            default `stdlib`, where there is no mixture.
        mixture: Several sources with weights by tokens, instead of `sources`, by name:
            {code: {sources: stdlib, weight: 0.3}, books: {sources: books/*.txt, weight: 0.7}}.
        validation_sources: Sources for validation; by default, part of the documents of `sources` or of each source
            of the mixture.
        test_sources: Sources for test and predict; by default, the validation's.
        tokenizer: `bytes`, a Hugging Face tokenizer.json, a SentencePiece .model, a .tiktoken file, or a tiktoken name.
        sequence_length: Tokens that the model reads per sequence.
        packing: contiguous = documents back to back, cut where a sequence is full; best_fit = rows of whole documents,
            only longer ones are cut; carried = contiguous, and each row continues that of the batch before, from which
            the model carries its state.
        batch_size: Sequences per device and step.
        validation_fraction: Part of the documents that are kept for validation.
        max_validation_sequences: Validate on that many sequences, spread evenly over the validation (of each source in
            proportion); by default all.
        split_seed: Of the choice of validation documents.
        seed: Of the order of training sequences.
        text_field: Field of .jsonl and column of .parquet that holds the text.
        strict: Stop at the first document that cannot be read, instead of counting it.
        folder: Where the prepared dataset stands; by default a folder of `cache_folder` named after its content. Those
            of a mixture stand in it, named as the sources.
        cache_folder: Holds prepared datasets that have no folder of their own, and what is read from URLs.
        cache_bytes: Most that chunks read from URLs take; the least recently used are deleted.
        num_workers: Processes that load batches; 0 = the training process itself, which is fast enough for text.
        progress: Show the progress of preparing.

    Attributes:
        source_names: the names in the mixture, in the order of `sources` in a batch; empty without a mixture.

    Raises:
        DataError: an option that is out of range or does not go with another, an unknown tokenizer; when preparing, a
            source that is missing or broken; when loading, a split that is too short for one sequence or one batch.
    """

    def __init__(
        self,
        *,
        sources: str | list[str] | None = None,
        mixture: dict[str, MixtureSource] | None = None,
        validation_sources: str | list[str] | None = None,
        test_sources: str | list[str] | None = None,
        tokenizer: str = "bytes",
        sequence_length: int = 2048,
        packing: Packing = "contiguous",
        batch_size: int = 8,
        validation_fraction: float = 0.05,
        max_validation_sequences: int | None = None,
        split_seed: int = 0,
        seed: int = 0,
        text_field: str = "text",
        strict: bool = False,
        folder: str | None = None,
        cache_folder: str = DEFAULT_CACHE_FOLDER,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        num_workers: int = 0,
        progress: bool = True,
    ) -> None:
        super().__init__(sequence_length=sequence_length, batch_size=batch_size, num_workers=num_workers)
        require("seed", seed, 0)
        require("cache_bytes", cache_bytes, 0)
        if max_validation_sequences is not None:
            require("max_validation_sequences", max_validation_sequences, 1)
        if not 0 <= validation_fraction < 1:
            raise DataError(f"validation_fraction must be at least 0 and below 1, not {validation_fraction}.")
        self.sources = sources
        self.mixture = None if mixture is None else read_mixture(mixture)
        self.validation_sources = validation_sources
        self.test_sources = test_sources
        self.packing = packing
        self.validation_fraction = validation_fraction
        self.max_validation_sequences = max_validation_sequences
        self.split_seed = split_seed
        self.seed = seed
        self.text_field = text_field
        self.strict = strict
        self.folder = folder
        self.cache_folder = cache_folder
        self.cache_bytes = cache_bytes
        self.progress = progress
        self._check_combination()
        self.tokenizer: Tokenizer = build_tokenizer(tokenizer)
        self.vocab_size = self.tokenizer.vocab_size
        self.bos_id = self.tokenizer.bos_id
        self.source_names = tuple(self.mixture or ())
        self._datasets: dict[str, list[TokenDataset]] = {}

    def _check_combination(self) -> None:
        if self.packing not in get_args(Packing):
            valid = ", ".join(get_args(Packing))
            raise DataError(
                f"packing must be one of {valid}, not {self.packing!r}.{suggestion(self.packing, get_args(Packing))}"
            )
        if self.mixture is None:
            return
        if self.sources is not None:
            raise DataError(
                "sources and mixture are both given; leave sources out (or set it to null) and name everything that is "
                "to be read in the mixture."
            )
        if self.packing == "carried":
            raise DataError(
                "packing carried follows one stream, and a mixture has several; use packing contiguous or best_fit, or "
                "give one source."
            )

    @cached_property
    def token_bytes(self) -> Tensor:
        """Number of bytes that each id stands for, int32 `[vocab_size]`; 0 for BOS."""
        return self.tokenizer.token_bytes

    @property
    def carries_state(self) -> bool:
        """Whether each row of a training batch continues the same row of the batch before."""
        return self.packing == "carried"

    @property
    def padding(self) -> float:
        """Share of the training inputs that are padding."""
        parts, weights = self._training_parts, self._weights()
        shares = [part.padding if isinstance(part, BestFitSequences) else 0.0 for part in parts]
        return sum(share * weight for share, weight in zip(shares, weights, strict=True)) / sum(weights)

    @property
    def fingerprint(self) -> str:
        """Hash of the training data and of all that decides its order; a copy of a prepared folder has the same."""
        datasets, split = self._split("train")
        description = {
            "content": [dataset.content(split) for dataset in datasets],
            "chunks": [self._stream(dataset, split).chunk_starts for dataset in datasets],
            "weights": self._weights(),
            "sequence_length": self.sequence_length,
            "packing": self.packing,
            "lanes": self.global_batch_size if self.carries_state else None,
            "seed": self.seed,
        }
        return hashlib.blake2b(json.dumps(description, sort_keys=True).encode(), digest_size=16).hexdigest()

    def prepare_data(self) -> None:
        """Prepares what is not there yet."""
        for preparations in self._preparations().values():
            for preparation in preparations:
                preparation.run(self.progress)

    def setup(self, stage: str | None = None) -> None:
        """Opens the prepared datasets (and prepares them where nobody called `prepare_data`)."""
        self._open()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Batches of the training sequences from `position` on, without end."""
        parts = self._training_parts
        what = ", ".join(str(dataset.folder) for dataset in self._split("train")[0])
        if self.carries_state:
            carried = CarriedOrder(len(parts[0]), self.global_batch_size, self.seed)
            return self.training_loader(CarriedSequences(parts[0], carried), Positions(len(carried)), what)
        orders: list[SampleOrder] = [ShuffledOrder(part.samples_per_chunk, self.seed) for part in parts]
        if self.mixture is None:
            return self.training_loader(parts[0], orders[0], what)
        order = MixtureOrder(orders, [len(part) for part in parts], self._weights(), self.seed)
        return self.training_loader(MixtureSequences(parts), order, what)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Batches of the validation sequences; an empty list where there is no validation."""
        if self.validation_sources is None and self.validation_fraction == 0:
            return []
        return self._evaluation("validation", self.max_validation_sequences)

    def test_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Batches of the sequences of `test_sources`, else of the validation."""
        return self.val_dataloader() if self.test_sources is None else self._evaluation("test", None)

    def predict_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """The same batches as for test."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, Any]:
        """The position, and with carried state the lanes that it counts in."""
        state = super().state_dict()
        return {**state, "lanes": self.global_batch_size} if self.carries_state else state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the position of a checkpoint.

        Raises:
            DataError: training with carried state, where the checkpoint's global batch has another number of rows.
        """
        lanes = state_dict.get("lanes")
        refused = self.carries_state and lanes != self.global_batch_size
        if refused and (self.trainer is None or self.trainer.state.fn == TrainerFn.FITTING):
            was = "was written without carried state" if lanes is None else f"carries the state of {lanes} rows"
            raise DataError(
                f"packing carried: the checkpoint {was}, and batch_size {self.batch_size} x {self.replicas()[0]} "
                f"devices is {self.global_batch_size}; choose batch_size so that batch_size x devices stays "
                "what it was, or go on with the packing of the checkpoint."
            )
        super().load_state_dict(state_dict)

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
        datasets, split = self._split(role)
        for dataset in datasets:
            for ids in self._stream(dataset, split).documents():
                if self.tokenizer.name == "bytes":
                    yield ids.astype("uint8").tobytes()
                else:
                    yield self.tokenizer.decode(ids).encode("utf-8", errors="replace")

    def _weights(self) -> list[float]:
        return [1.0] if self.mixture is None else [source.weight for source in self.mixture.values()]

    def _preparations(self) -> dict[str, list[Preparation]]:
        """What is to be prepared, by role; several for the training on a mixture."""
        fraction = self.validation_fraction if self.validation_sources is None else 0.0
        if self.mixture is None:
            training = [self._preparation(self.sources or "stdlib", fraction, self.folder)]
        else:
            training = [
                self._preparation(
                    source.sources,
                    fraction,
                    None if self.folder is None else f"{self.folder.rstrip('/')}/{name}",
                    source.text_field,
                )
                for name, source in self.mixture.items()
            ]
        found = {"train": training}
        for role, sources in (("validation", self.validation_sources), ("test", self.test_sources)):
            if sources is not None:
                beside = None if self.folder is None else f"{self.folder.rstrip('/')}-{role}"
                found[role] = [self._preparation(sources, 0.0, beside)]
        return found

    def _preparation(
        self, sources: str | list[str], fraction: float, folder: str | None, text_field: str | None = None
    ) -> Preparation:
        return Preparation(
            sources,
            self.tokenizer,
            validation_fraction=fraction,
            split_seed=self.split_seed,
            text_field=text_field or self.text_field,
            folder=folder,
            cache_folder=self.cache_folder,
            strict=self.strict,
        )

    def _open(self) -> dict[str, list[TokenDataset]]:
        if not self._datasets:
            self._datasets = {
                role: [preparation.run(self.progress) for preparation in preparations]
                for role, preparations in self._preparations().items()
            }
        return self._datasets

    def _split(self, role: str) -> tuple[list[TokenDataset], str]:
        datasets = self._open()
        if role == "validation" and role not in datasets:
            return datasets["train"], VALIDATION
        return datasets[role], TRAIN  # sources of their own are not split: all of them is the first split

    @cached_property
    def _training_parts(self) -> list[Sequences]:
        """The training sequences of each source."""
        datasets, split = self._split("train")
        return [self._sequences(dataset, split, self.packing, "text") for dataset in datasets]

    def _evaluation(self, role: str, limit: int | None) -> DataLoader[Batch]:
        datasets, split = self._split(role)
        own = f"{role}_sources"
        remedy = own if role in self._datasets else f"{own} or raise validation_fraction"
        parts = [self._sequences(dataset, split, "contiguous", remedy) for dataset in datasets]
        what = ", ".join(f"{dataset.folder} ({split})" for dataset in datasets)
        if self.mixture is None or role in self._datasets:
            return self.evaluation_loader(parts[0], SpreadOrder(len(parts[0]), limit), what)
        order = SpreadMixtureOrder([len(part) for part in parts], limit)
        return self.evaluation_loader(MixtureSequences(parts), order, what)

    def _stream(self, dataset: TokenDataset, split: str) -> TokenStream:
        return dataset.stream(split, cache_folder=f"{self.cache_folder}/chunks", cache_bytes=self.cache_bytes)

    def _sequences(self, dataset: TokenDataset, split: str, packing: Packing, remedy: str) -> Sequences:
        stream = self._stream(dataset, split)
        found: Sequences
        if packing == "best_fit":
            found = BestFitSequences(stream, self.sequence_length, self.bos_id)
        else:
            found = ContiguousSequences(stream, self.sequence_length)
        if len(found) == 0:
            raise DataError(
                f"{dataset.folder}: the {split} split has {len(stream)} tokens, fewer than one sequence "
                f"(sequence_length + 1 = {self.sequence_length + 1}); shorten sequence_length, or give more {remedy}."
            )
        return found
