from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from gecko_lab.data.errors import DataError
from gecko_lab.data.ngram import order2_bits_per_byte
from gecko_lab.data.text import TextDataModule


def module(corpus: Path, **options: Any) -> TextDataModule:
    defaults: dict[str, Any] = {
        "sources": None if "mixture" in options else str(corpus),
        "cache_folder": str(corpus.parent / "cache"),
        "sequence_length": 32,
        "batch_size": 4,
        "validation_fraction": 0.2,
        "progress": False,
    }
    return TextDataModule(**(defaults | options))


def passes(loader: Any, number: int = 1) -> list[list[int]]:
    """The sequences of as many passes; training's loader has no end."""
    batches = itertools.islice(loader, number * len(loader))
    return [row for batch in batches for row in batch["tokens"].tolist()]


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
    assert list(batch) == ["tokens", "samples"]
    assert batch["tokens"].shape == (4, 33)
    assert batch["tokens"].dtype == torch.int64
    rows = passes(data.train_dataloader())
    (dataset,) = data._open()["train"]
    documents = [data.tokenizer.decode(ids) for ids in dataset.documents("train")]
    stream = [i for d in documents for i in (data.bos_id, *d.encode())]
    expected = [stream[i : i + 33] for i in range(0, len(stream) - 32, 32)]
    assert [expected[i] for i in batch["samples"].tolist()] == batch["tokens"].tolist() == rows[:4]
    assert len(rows) == len(expected) - len(expected) % 4
    assert all(row in expected for row in rows)
    assert rows != expected[: len(rows)], "training sequences come in the order of the documents"


@pytest.mark.parametrize("stage", ["train_dataloader", "val_dataloader"])
def test_order_does_not_depend_on_workers(corpus: Path, stage: str) -> None:
    loaders = [getattr(module(corpus, num_workers=n, max_validation_sequences=9), stage)() for n in (0, 2)]
    number = 2 if stage == "train_dataloader" else 1
    first, second = (passes(loader, number) for loader in loaders)
    assert first == second
    assert first[: len(first) // 2] != first[len(first) // 2 :]
    assert passes(getattr(module(corpus, seed=1), stage)()) != first[: len(first) // number]


def test_validation_is_spread_over_all_of_it(corpus: Path) -> None:
    everything = passes(module(corpus).val_dataloader())
    chosen = passes(module(corpus, max_validation_sequences=5).val_dataloader())
    assert chosen == [everything[i * len(everything) // 5] for i in range(5)]
    assert passes(module(corpus).test_dataloader()) == everything
    assert passes(module(corpus).predict_dataloader()) == everything


def test_sources_of_their_own(corpus: Path) -> None:
    data = module(
        corpus / "00.txt", validation_sources=str(corpus / "02.txt"), test_sources=[str(corpus / "deep/03.txt")]
    )
    data.prepare_data()
    loaders = {"00": data.train_dataloader(), "02": data.val_dataloader(), "deep/03": data.test_dataloader()}
    for name, loader in loaders.items():
        stream = [256, *(corpus / f"{name}.txt").read_bytes()]
        blocks = [stream[i : i + 33] for i in range(0, len(stream) - 32, 32)]
        assert all(row in blocks for row in passes(loader))
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
    (dataset,) = data._open()["train"]
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
        ({"packing": "bestfit"}, "packing must be one of contiguous, best_fit, carried, not 'bestfit'. Did you mean"),
        ({"cache_bytes": -1}, "cache_bytes must be at least 0, not -1"),
        ({"mixture": {"a": {"sources": "x", "weight": 1}}, "sources": "x"}, "sources and mixture are both given"),
        ({"mixture": {}, "sources": None}, "mixture: it has no source"),
        ({"mixture": {"a": {"sources": "x", "weight": 0}}, "sources": None}, r"mixture\.a\.weight must be a positive"),
        (
            {"mixture": {"a": {"sources": "x"}}, "sources": None},
            r"mixture\.a: .*'weight'; its keys are sources, weight and",
        ),
        (
            {"mixture": {"a": {"sources": "x", "weight": 1}}, "sources": None, "packing": "carried"},
            "packing carried follows one stream, and a mixture has several",
        ),
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
    assert model.seen == passes(loader, 2)
    assert data.position == len(model.seen)
    predicted = trainer.predict(model, datamodule=data)
    assert predicted is not None
    assert sum(predicted) == len(passes(module(corpus).val_dataloader()))


def mixture_of(corpus: Path) -> dict[str, Any]:
    return {
        "upper": {"sources": str(corpus / "*.txt"), "weight": 1},
        "deep": {"sources": [str(corpus / "deep")], "weight": 3},
    }


def test_mixture(corpus: Path) -> None:
    data = module(corpus, mixture=mixture_of(corpus))
    data.setup("fit")
    assert data.source_names == ("upper", "deep")
    streams = [
        [i for ids in dataset.documents("train") for i in (256, *ids.tolist())] for dataset in data._open()["train"]
    ]
    loader = data.train_dataloader()
    taken = [0, 0]
    for batch in itertools.islice(loader, 64):
        assert list(batch) == ["tokens", "samples", "sources"]
        for row, source, sample in zip(
            *(batch[name].tolist() for name in ("tokens", "sources", "samples")), strict=True
        ):
            begin = 32 * (sample - source * ((len(streams[0]) - 1) // 32))
            assert row == streams[source][begin : begin + 33]
            taken[source] += 1
    assert taken == [64, 192]


def test_mixture_is_validated_source_by_source(corpus: Path) -> None:
    every = list(module(corpus, mixture=mixture_of(corpus)).val_dataloader())
    sources = torch.cat([batch["sources"] for batch in every])
    counts = sources.bincount(minlength=2)
    assert counts.min() > 2
    assert sources.tolist() == sorted(sources.tolist())
    some = list(module(corpus, mixture=mixture_of(corpus), max_validation_sequences=8).val_dataloader())
    chosen = torch.cat([batch["sources"] for batch in some]).bincount(minlength=2)
    assert (chosen - 8 * counts / counts.sum()).abs().max() <= 1
    own = module(corpus, mixture=mixture_of(corpus), validation_sources=str(corpus / "02.txt"))
    assert list(next(iter(own.val_dataloader()))) == ["tokens", "samples"]


def test_mixture_in_a_folder_of_its_own(corpus: Path) -> None:
    data = module(corpus, mixture=mixture_of(corpus), folder=str(corpus.parent / "mixed"), test_sources=str(corpus))
    data.prepare_data()
    for name in ("mixed/upper", "mixed/deep", "mixed-test"):
        assert (corpus.parent / name / "manifest.json").exists()


def test_best_fit(corpus: Path) -> None:
    data = module(corpus, packing="best_fit", sequence_length=1200)
    batch = next(iter(data.train_dataloader()))
    assert list(batch) == ["tokens", "samples", "mask"]
    assert 0 < data.padding < 0.5
    assert (batch["tokens"][:, 0] == 256).all()
    assert list(next(iter(data.val_dataloader()))) == ["tokens", "samples"], "validation is contiguous"
    assert module(corpus).padding == 0
    mixed = module(corpus, packing="best_fit", mixture=mixture_of(corpus), sequence_length=1200)
    assert list(next(iter(mixed.train_dataloader()))) == ["tokens", "samples", "mask", "sources"]
    assert 0 < mixed.padding < 0.5


def test_carried(corpus: Path) -> None:
    data = module(corpus, packing="carried")
    assert data.carries_state
    assert not module(corpus).carries_state
    batches = list(itertools.islice(data.train_dataloader(), 5))
    assert batches[0]["fresh"].all()
    for before, after in itertools.pairwise(batches):
        continues = ~after["fresh"]
        assert torch.equal(after["tokens"][continues, 0], before["tokens"][continues, -1])
    assert sum(int(batch["fresh"].sum()) for batch in batches) <= 4 + 1


def test_carried_lanes_must_stay(corpus: Path) -> None:
    data = module(corpus, packing="carried")
    data.position = 12
    other = module(corpus, packing="carried", batch_size=2)
    with pytest.raises(
        DataError, match=r"carries the state of 4 rows, and batch_size 2 x 1 devices is 2; choose batch"
    ):
        other.load_state_dict(data.state_dict())
    with pytest.raises(DataError, match="was written without carried state"):
        data.load_state_dict(module(corpus).state_dict())
    again = module(corpus, packing="carried")
    again.load_state_dict(data.state_dict())
    assert again.position == 12


def test_fingerprint(corpus: Path) -> None:
    same = {module(corpus).fingerprint, module(corpus, batch_size=2, num_workers=1).fingerprint}
    copied = corpus.parent / "copied"
    shutil.copytree(corpus, copied)
    same.add(module(corpus, sources=str(copied)).fingerprint)
    same.add(module(corpus, sources=str(module(corpus)._open()["train"][0].folder)).fingerprint)
    assert len(same) == 1
    others = [
        {"seed": 1},
        {"sequence_length": 31},
        {"packing": "best_fit"},
        {"packing": "carried"},
        {"packing": "carried", "batch_size": 2},
        {"sources": str(corpus / "deep")},
        {"split_seed": 1},
        {"mixture": mixture_of(corpus)},
        {"mixture": {**mixture_of(corpus), "deep": {"sources": [str(corpus / "deep")], "weight": 2}}},
    ]
    assert len(same | {module(corpus, **options).fingerprint for options in others}) == len(others) + 1


def test_prepared_data_behind_a_url(corpus: Path) -> None:
    local = module(corpus)
    expected = passes(local.train_dataloader())
    system = fsspec.filesystem("memory")
    system.put(str(local._open()["train"][0].folder), "/prepared", recursive=True)
    try:
        data = module(corpus, sources="memory://prepared", cache_folder=str(corpus.parent / "other"), num_workers=1)
        assert passes(data.train_dataloader()) == expected
        assert data.fingerprint == local.fingerprint
        assert data.ngram_bits_per_byte() == local.ngram_bits_per_byte()
    finally:
        system.rm("/prepared", recursive=True)
    assert {path.suffix for path in (corpus.parent / "other" / "chunks").iterdir()} == {".bin"}


def test_strict_is_for_the_preparation(corpus: Path) -> None:
    assert [module(corpus, strict=strict)._preparations()["train"][0].strict for strict in (False, True)] == [
        False,
        True,
    ]


def test_error_of_a_worker_is_one_message(corpus: Path) -> None:
    data = module(corpus, num_workers=1)
    data.setup("fit")
    loader = data.train_dataloader()
    for chunk in Path(data._open()["train"][0].folder).glob("train/*.bin"):
        chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    with pytest.raises(DataError, match=r"^\S*chunk\S* is damaged: [^\n]*prepare the data again\.$"):
        next(iter(loader))
