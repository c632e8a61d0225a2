"""`gecko-lab bench data`: the gate, what is measured, what is printed; nothing depends on how fast anything is."""

import contextlib
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from litdata import TokensLoader
from litdata.streaming import dataset as litdata_dataset
from torch import Tensor

from gecko_lab.__main__ import main
from gecko_lab.bench import data, data_table, machine
from gecko_lab.bench.data_check import check_pass
from gecko_lab.bench.data_corpus import Corpus, make_corpus
from gecko_lab.bench.data_readers import LitDataReader, OurReader, Reader
from gecko_lab.bench.data_timing import read_in_turns
from gecko_lab.data import storage
from gecko_lab.data.sequences import ContiguousSequences
from gecko_lab.data.split import TRAIN

BOS = 256
READERS = ["gecko-lab", "LitData"]
SMALL = ["--tokens", "20k", "--sequence_length", "100", "--num_workers", "0", "--rounds", "1"]
UNTRAINED = [*SMALL, "--train", "null"]


@pytest.fixture(autouse=True)
def quick_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's ceilings are measured elsewhere, and nobody may ask for newer versions."""

    def asked(version: str) -> None:
        raise AssertionError("LitData asked a package index")

    monkeypatch.setattr(litdata_dataset, "_check_version_and_prompt_upgrade", asked)
    monkeypatch.setattr(machine, "copy_bandwidth", lambda device, size: 1e9)
    monkeypatch.setattr(machine, "matmul_peak", lambda device, dtype, size: 1e9)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """30,000 tokens in chunks of 8,192, so that both loaders must deal with their ends."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_SLAB_TOKENS", 1024)
        return make_corpus(tmp_path_factory.mktemp("corpus"), 30_000)


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """What the whole benchmark gives for a short text."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "copy_bandwidth", lambda device, size: 1e9)
        patch.setattr(machine, "matmul_peak", lambda device, dtype, size: 1e9)
        data(
            tokens="50k",
            sequence_length=200,
            batch_size=3,
            num_workers="0,1",
            rounds=2,
            train="tiny",
            train_sequence_length=130,
            train_batch_size=2,
            threads=1,
            json=True,
        )
    found: dict[str, Any] = json.loads(printed.getvalue())
    return found


def test_data_measures_both_loaders(result: dict[str, Any]) -> None:
    assert [loader["num_workers"] for loader in result["loaders"]] == [0, 1]
    for loader in result["loaders"]:
        assert list(loader["readers"]) == list(loader["check"]) == READERS
        for reader in loader["readers"].values():
            for measured in reader.values():
                assert 0 < measured["min"] <= measured["median"] <= measured["max"]
                assert len(measured["samples"]) == 2
        ours, theirs = (loader["readers"][name]["tokens_per_second"]["median"] for name in READERS)
        assert loader["ratio"] == ours / theirs


def test_data_checks_every_sequence(result: dict[str, Any]) -> None:
    for loader in result["loaders"]:
        for name, sequences in zip(READERS, [(50_000 - 1) // 200, 50_000 // 201], strict=True):
            verdict = {"green": True, "sequences": sequences, "missing": 0, "wrong": 0, "failure": None}
            assert loader["check"][name] == verdict


def test_data_trains_and_says_how_long_it_waited(result: dict[str, Any]) -> None:
    training = result["training"]
    assert (training["size"], training["steps"], training["chunk_size"]) == ("tiny", 3, 128)
    assert (training["batch_size"], training["sequence_length"]) == (2, 130)
    assert training["parameters"] > 0
    assert [len(values) for values in training["by_step"].values()] == [3, 3]
    assert all(
        0 < waited < seconds
        for seconds, waited in zip(training["by_step"]["seconds"], training["by_step"]["seconds_waited"], strict=True)
    )
    assert training["waiting"] == training["seconds_waited"] / training["seconds"]


def test_data_holds_its_bars_against_what_was_measured(result: dict[str, Any]) -> None:
    ratio, waiting = result["bars"]
    assert (ratio["of"], ratio["limit"], ratio["value"]) == ("ratio", 1.0, result["loaders"][0]["ratio"])
    assert (waiting["of"], waiting["limit"], waiting["value"]) == ("waiting", 0.02, result["training"]["waiting"])
    assert [bar["met"] for bar in (ratio, waiting)] == [ratio["value"] >= 1, waiting["value"] < 0.02]


def test_data_says_what_it_ran_on(result: dict[str, Any]) -> None:
    assert result["machine"]["threads"] == 1
    assert result["corpus"] == {"tokens": 50_000, "token_dtype": "uint16", "chunks": 1, "bytes": 100_012}
    assert result["command"].startswith("gecko-lab bench data --batch_size 3 --sequence_length 200 --num_workers 0,1")
    assert "json" not in result["command"]


def test_show_fits_100_columns_and_names_everything(result: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    slow = {**result, "bars": [{**bar, "met": False} for bar in result["bars"]]}
    data_table.show(slow)
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "…" not in printed
    assert printed.count("MISSED: ") == 2
    assert "gecko tiny, 2 × 130, chunk 128: 3 steps" in printed
    assert "right, all of 249 sequences once" in printed
    assert f"{result['loaders'][1]['ratio']:.2f}" in printed
    assert result["command"] in " ".join(printed.split())


def wrong_tokens(monkeypatch: pytest.MonkeyPatch) -> str:
    """Ours gives one wrong token in one sequence."""
    right = ContiguousSequences.fill

    def fill(self: ContiguousSequences, index: int, tokens: Any, mask: Any) -> None:
        right(self, index, tokens, mask)
        tokens[7] += index == 150

    monkeypatch.setattr(ContiguousSequences, "fill", fill)
    return "gecko-lab"


def same_sequence_again(monkeypatch: pytest.MonkeyPatch) -> str:
    """LitData gives one sequence twice, and another never."""
    right = TokensLoader.load_item_from_chunk

    def load(self: TokensLoader, index: int, *place: Any) -> Any:
        return right(self, 3 if index == 4 else index, *place)

    monkeypatch.setattr(TokensLoader, "load_item_from_chunk", load)
    return "LitData"


def raises(monkeypatch: pytest.MonkeyPatch) -> str:
    """LitData stops."""

    def load(self: TokensLoader, *place: Any) -> Any:
        raise OSError("the disk\nis gone")

    monkeypatch.setattr(TokensLoader, "load_item_from_chunk", load)
    return "LitData"


@pytest.mark.parametrize(
    ("plant", "said", "missing", "extra"),
    [
        (wrong_tokens, "1 of 199 sequences missing, 1 wrong", 1, 1),
        (same_sequence_again, "1 of 198 sequences missing, 1 wrong", 1, 1),
        (raises, "OSError: the disk is gone", 198, 0),
    ],
)
def test_data_gives_no_speed_to_what_is_wrong(
    plant: Any,
    said: str,
    missing: int,
    extra: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = plant(monkeypatch)
    (other,) = set(READERS) - {name}
    with pytest.raises(SystemExit) as stop:
        main(["bench", "data", *UNTRAINED])
    assert stop.value.code == 1
    printed = capsys.readouterr().out
    assert f"{name}, 0 workers: WRONG, no speed: {said}" in printed
    assert f"{other}, 0 workers: right" in printed

    with pytest.raises(SystemExit) as stop:
        main(["bench", "data", *UNTRAINED, "--json"])
    assert stop.value.code == 1
    found = json.loads(capsys.readouterr().out)
    (loader,) = found["loaders"]
    assert list(loader["readers"]) == [other]
    assert (loader["ratio"], found["bars"], found["training"]) == (None, [], None)
    verdict = loader["check"][name]
    assert (verdict["green"], verdict["missing"], verdict["wrong"]) == (False, missing, extra)


def test_make_corpus_knows_what_is_on_disk(corpus: Corpus) -> None:
    assert len(corpus.stream) == 30_000
    assert corpus.chunk_starts == [0, 8192, 16384, 24576, 30_000]
    assert np.array_equal(corpus.dataset.stream(TRAIN).read(0, 30_000), corpus.stream)
    assert corpus.stream[0] == BOS
    assert 1 < (corpus.stream == BOS).sum() < 30


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("length", [1, 97, 4095, 8191])
@pytest.mark.parametrize("reader_type", [OurReader, LitDataReader])
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_check_pass_is_green_over_the_ends_of_chunks(
    corpus: Corpus, reader_type: type[Reader], length: int, num_workers: int
) -> None:
    reader = reader_type(corpus, length, batch_size=2 if length > 97 else 64)
    if reader_type is LitDataReader:
        sequences = sum((end - begin) // (length + 1) for begin, end in pairwise(corpus.chunk_starts))
    else:
        sequences = 29_999 // length
    verdict = check_pass(reader, num_workers)
    assert verdict.green, verdict
    assert verdict.sequences == sequences


class Planted(OurReader):
    """Gives batches of another type."""

    def batches(self, num_workers: int) -> Iterator[Tensor]:
        return (batch.to(torch.int32) for batch in super().batches(num_workers))


def test_check_pass_takes_int64_alone(corpus: Corpus) -> None:
    verdict = check_pass(Planted(corpus, 100, 8), 0)
    assert not verdict.green
    assert verdict.failure == "TypeError: batches are torch.int32, not int64"


def test_read_in_turns_takes_turns_with_equal_work(corpus: Corpus) -> None:
    ran: list[str] = []

    class Counted(OurReader):
        def batches(self, num_workers: int) -> Iterator[Tensor]:
            for batch in super().batches(num_workers):
                ran.append(self.name)
                yield batch

    first, second = Counted(corpus, 999, 4), Counted(corpus, 999, 4)
    first.name, second.name = "a", "b"
    readings = read_in_turns([first, second], 0, 3)
    turns = [name for index, name in enumerate(ran) if index % 8 == 0]
    assert turns == ["a", "b", "b", "a", "a", "b"]
    assert {name: reading.num_tokens for name, reading in readings.items()} == {"a": 6 * 4 * 999, "b": 6 * 4 * 999}
    assert all(len(reading.first_batch) == len(reading.others) == 3 for reading in readings.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_workers", "0,x"], "--num_workers: expected numbers with commas between"),
        (["--num_workers", "-1"], "--num_workers"),
        (["--num_workers", ""], "--num_workers"),
        (["--tokens", "many"], "--tokens: expected a number such as 500k or 64M, got 'many'"),
        (["--tokens", "64M tokens"], "--tokens: expected a number"),
        (["--tokens", "1"], "--tokens must be at least 2 and at most 1G"),
        (["--tokens", "2T"], "--tokens must be at least 2 and at most 1G, got 2T"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--batch_size", "0"], "--batch_size must be at least 1"),
        (["--train_steps", "-2"], "--train_steps must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--train", "16m"], "'16m'; did you mean 15m"),
        (
            [*SMALL, "--batch_size", "100", "--train", "null"],
            "for gecko-lab, and 2 are needed; give more, or lower --s",
        ),
        ([*SMALL, "--train_sequence_length", "20000"], "and 1 are needed; give more, or lower --train_sequence_length"),
        (["--round", "3"], "--round"),
    ],
)
def test_data_refuses_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("gecko-lab: ")
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1


def test_data_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["bench", "data", *UNTRAINED, "--threads", "1", "--json"]) == 0
    assert list(tmp_path.iterdir()) == []
    assert torch.get_num_threads() == threads
