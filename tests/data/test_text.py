from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gecko_lab.data.errors import DataError
from gecko_lab.data.ngram import order2_bits_per_byte
from gecko_lab.data.text import TextDataModule


def module(corpus: Path, **options: Any) -> TextDataModule:
    defaults: dict[str, Any] = {
        "sources": str(corpus),
        "cache_folder": str(corpus.parent / "cache"),
        "sequence_length": 32,
        "batch_size": 4,
        "validation_fraction": 0.2,
        "progress": False,
    }
    return TextDataModule(**(defaults | options))


def epoch(loader: Any, number: int = 0) -> list[list[int]]:
    loader.sampler.set_epoch(number)
    return [row for batch in loader for row in batch["tokens"].tolist()]


def test_known_before_anything_is_prepared(corpus: Path, byte_fallback_file: Path) -> None:
    data = module(corpus)
    assert (data.vocab_size, data.bos_id, int(data.token_bytes.sum())) == (257, 256, 256)
    assert module(corpus, tokenizer=str(byte_fallback_file)).bos_id == 1
    assert not (corpus.parent / "cache").exists()


def test_batches(corpus: Path) -> None:
    data = module(corpus)
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert list(batch) == ["tokens"]
    assert batch["tokens"].shape == (4, 33)
    assert batch["tokens"].dtype == torch.int64
    rows = epoch(data.train_dataloader())
    dataset = data._open()["train"]
    documents = [data.tokenizer.decode(ids) for ids in dataset.documents("train")]
    stream = [i for d in documents for i in (data.bos_id, *d.encode())]
    expected = [stream[i : i + 33] for i in range(0, len(stream) - 32, 33)]
    assert len(rows) == len(expected) - len(expected) % 4
    assert all(row in expected for row in rows)
    assert rows != expected[: len(rows)], "training sequences come in the order of the documents"


@pytest.mark.parametrize("stage", ["train_dataloader", "val_dataloader"])
def test_order_does_not_depend_on_workers(corpus: Path, stage: str) -> None:
    loaders = [getattr(module(corpus, num_workers=n, max_validation_sequences=9), stage)() for n in (0, 2)]
    first, second = ([epoch(loader, number) for number in range(2)] for loader in loaders)
    assert first == second
    assert (first[0] == first[1]) == (stage == "val_dataloader")
    assert epoch(getattr(module(corpus, seed=1), stage)()) != first[0]


def test_validation_is_spread_over_all_of_it(corpus: Path) -> None:
    everything = epoch(module(corpus).val_dataloader())
    chosen = epoch(module(corpus, max_validation_sequences=5).val_dataloader())
    assert chosen == [everything[i * len(everything) // 5] for i in range(5)]
    assert epoch(module(corpus).test_dataloader()) == everything
    assert epoch(module(corpus).predict_dataloader()) == everything


def test_sources_of_their_own(corpus: Path) -> None:
    data = module(
        corpus / "00.txt", validation_sources=str(corpus / "02.txt"), test_sources=[str(corpus / "deep/03.txt")]
    )
    data.prepare_data()
    loaders = {"00": data.train_dataloader(), "02": data.val_dataloader(), "deep/03": data.test_dataloader()}
    for name, loader in loaders.items():
        stream = [256, *(corpus / f"{name}.txt").read_bytes()]
        blocks = [stream[i : i + 33] for i in range(0, len(stream) - 32, 33)]
        assert all(row in blocks for row in epoch(loader))
    named = module(corpus / "00.txt", validation_sources=str(corpus / "02.txt"), folder=str(corpus.parent / "named"))
    named.prepare_data()
    assert (corpus.parent / "named-validation" / "manifest.json").exists()


def test_without_validation(corpus: Path) -> None:
    assert module(corpus, validation_fraction=0.0).val_dataloader() == []
    with pytest.raises(DataError, match="nothing to evaluate"):
        module(corpus, validation_fraction=0.0).ngram_bits_per_byte()


@pytest.mark.parametrize("kind", ["bytes", "byte_level_file"])
def test_ngram_bits_per_byte(corpus: Path, kind: str, request: pytest.FixtureRequest) -> None:
    data = module(corpus, tokenizer="bytes" if kind == "bytes" else str(request.getfixturevalue(kind)))
    dataset = data._open()["train"]
    documents = {
        split: [data.tokenizer.decode(ids).encode() for ids in dataset.documents(split)]
        for split in ("train", "validation")
    }
    assert data.ngram_bits_per_byte() == order2_bits_per_byte(documents["train"], documents["validation"])
    with pytest.raises(DataError, match="order must be 2, not 3"):
        data.ngram_bits_per_byte(order=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sequence_length": 0}, "sequence_length must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"num_workers": -1}, "num_workers must be at least 0, not -1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"max_validation_sequences": 0}, "max_validation_sequences must be at least 1"),
        ({"validation_fraction": 1.0}, "validation_fraction must be at least 0 and below 1"),
        ({"tokenizer": "byte"}, "Did you mean 'bytes'"),
    ],
)
def test_options_out_of_range(corpus: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        module(corpus, **options)


def test_too_little_text(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"train split has \d+ tokens, fewer than one sequence"):
        module(corpus, sequence_length=1_000_000).train_dataloader()
    with pytest.raises(DataError, match="give more validation_sources or raise validation_fraction"):
        module(corpus, sequence_length=10_000).val_dataloader()
    with pytest.raises(DataError, match=r"fewer than one batch \(100000 x 1 devices\)"):
        module(corpus, batch_size=100_000).train_dataloader()


class Recorder(LightningModule):
    """Keeps every sequence that a Trainer shows it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        self.seen += batch["tokens"].tolist()
        return self.weight * 1.0

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        assert batch["tokens"].shape[1] == 33

    def predict_step(self, batch: dict[str, Tensor]) -> int:
        return len(batch["tokens"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_trainer(corpus: Path, tmp_path: Path) -> None:
    data, model = module(corpus), Recorder()
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, default_root_dir=tmp_path, enable_model_summary=False, devices=1, **options
    )
    trainer.fit(model, datamodule=data)
    loader = module(corpus).train_dataloader()
    assert model.seen == epoch(loader, 0) + epoch(loader, 1)
    predicted = trainer.predict(model, datamodule=data)
    assert predicted is not None
    assert sum(predicted) == len(epoch(module(corpus).val_dataloader()))
