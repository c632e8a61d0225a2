"""Preparing: what is written, what is refused, what is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import litdata
import pytest
from litdata.streaming import dataset as litdata_dataset

from gecko_lab.data import parts, pool
from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError
from gecko_lab.data.preparation import Preparation
from gecko_lab.data.sources import SourceFile
from gecko_lab.data.split import TRAIN, VALIDATION
from gecko_lab.data.tokenizers import build_tokenizer
from tests.data.corpora import words
from tests.data.preparing import content, few_files, prepare, stream, texts


@pytest.mark.parametrize("kind", ["bytes", "byte_level_file", "sentencepiece_file", "tiktoken_file"])
@pytest.mark.usefixtures("small_chunks")
def test_documents_stand_back_to_back(corpus: Path, tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    tokenizer = build_tokenizer("bytes" if kind == "bytes" else str(request.getfixturevalue(kind)))
    dataset = Preparation(str(corpus), tokenizer, folder=str(tmp_path / "tokens"), validation_fraction=0.2).run(False)
    originals = {path.read_bytes() for path in corpus.rglob("*.txt") if path.stat().st_size}
    found: list[bytes] = []
    for split in (TRAIN, VALIDATION):
        documents = [tokenizer.decode(ids).encode() for ids in dataset.documents(split)]
        expected = [i for d in documents for i in (tokenizer.bos_id, *tokenizer.encode(d).tolist())]
        assert stream(dataset, split) == expected
        counts = dataset.manifest["splits"][split]
        assert counts["documents"] == len(documents) > 0
        assert counts["tokens"] == len(expected)
        assert counts["bytes"] == sum(map(len, documents)) == int(tokenizer.token_bytes[expected].sum())
        found += documents
    assert set(found) == originals
    assert len(found) == len(originals) == 40
    assert dataset.manifest["skipped"]["counts"] == {"empty file": 1}


def test_split_is_by_document(corpus: Path, tmp_path: Path) -> None:
    (corpus / "copy.txt").write_bytes((corpus / "deep/07.txt").read_bytes())
    found = prepare(str(corpus), tmp_path / "a", validation_fraction=0.5)
    training, validation = (set(texts(found, split)) for split in (TRAIN, VALIDATION))
    assert not training & validation
    reverse = prepare(sorted(map(str, corpus.rglob("*.txt")), reverse=True), tmp_path / "b", validation_fraction=0.5)
    assert set(texts(reverse, VALIDATION)) == validation
    other = prepare(str(corpus), tmp_path / "c", validation_fraction=0.5, split_seed=1)
    assert set(texts(other, VALIDATION)) != validation


def test_single_file_has_a_validation(corpus: Path, tmp_path: Path) -> None:
    dataset = prepare(str(corpus / "00.txt"), tmp_path / "tokens", validation_fraction=0.1)
    (first,), (second,) = texts(dataset, TRAIN), texts(dataset, VALIDATION)
    assert first + second == (corpus / "00.txt").read_bytes()
    assert "the end of the only document" in dataset.manifest["split"]["rule"]


def test_prepared_once_and_again_when_anything_changes(corpus: Path, tmp_path: Path, tiktoken_file: Path) -> None:
    cache = tmp_path / "cache"

    def folder(**options: Any) -> Path:
        return prepare(str(corpus), None, cache_folder=str(cache), **options).folder

    first = folder()
    modified = (first / "manifest.json").stat().st_mtime_ns
    assert folder() == first
    assert (first / "manifest.json").stat().st_mtime_ns == modified, "it was prepared again"
    others = [folder(tokenizer=str(tiktoken_file)), folder(validation_fraction=0.3), folder(split_seed=1)]
    (corpus / "00.txt").write_text("something else")
    others.append(folder())
    assert len({first, *others}) == 5
    assert first.name.startswith("corpus-")


def test_prepared_folder_as_source(corpus: Path, tmp_path: Path, tiktoken_file: Path) -> None:
    dataset = prepare(str(corpus), tmp_path / "tokens")
    assert prepare(str(tmp_path / "tokens"), None) == dataset
    with pytest.raises(DataError, match=r"has tokenizer 'bytes' \(257 ids\), not '.*tiny.tiktoken'"):
        prepare(str(tmp_path / "tokens"), None, tokenizer=str(tiktoken_file))
    with pytest.raises(DataError, match="must be the only source"):
        prepare([str(tmp_path / "tokens"), str(corpus)], None)


def test_named_folder_that_holds_something_else(corpus: Path, tmp_path: Path) -> None:
    prepare(str(corpus), tmp_path / "tokens")
    with pytest.raises(DataError, match="what is asked now differs"):
        prepare(str(corpus), tmp_path / "tokens", split_seed=1)
    with pytest.raises(DataError, match="exists and is not a prepared dataset"):
        prepare(str(corpus), corpus)
    (tmp_path / "empty").mkdir()
    assert prepare(str(corpus), tmp_path / "empty").num_tokens(TRAIN) > 0


def test_sources_without_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.jsonl").write_text('{"body": "x"}\n{"body": "y"}\n')
    with pytest.raises(DataError, match="2 files hold no text to train on") as raised:
        prepare(str(tmp_path), tmp_path / "out" / "tokens")
    assert "1 empty file, 2 missing text field" in str(raised.value)
    assert "The fields are 'body'; name the one with the text by text_field" in str(raised.value)
    assert os.listdir(tmp_path / "out") == [".tokens.lock"]


def test_bad_input_is_told_and_strict_stops(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpus / "zz.jsonl").write_text('{"text": "good"}\n{')
    with pytest.raises(DataError, match=r"empty\.txt: the file is empty. Preparing is strict"):
        prepare(str(corpus), tmp_path / "out" / "tokens", strict=True)
    assert os.listdir(tmp_path / "out") == [".tokens.lock"]
    (corpus / "empty.txt").unlink()
    with pytest.raises(DataError, match=r"zz\.jsonl, line 2: not JSON"):
        prepare(str(corpus), tmp_path / "out" / "tokens", strict=True)
    dataset = prepare(str(corpus), tmp_path / "out" / "tokens")
    assert dataset.manifest["skipped"]["counts"] == {"broken JSON": 1}
    (first,) = dataset.manifest["skipped"]["first"]
    assert (first["file"], first["line"], first["reason"]) == (str(corpus / "zz.jsonl"), 2, "broken JSON")
    told = capsys.readouterr().err
    assert "skipped    1 broken JSON\n" in told
    assert f"{corpus}/zz.jsonl, line 2: not JSON" in told
    assert prepare(str(corpus), tmp_path / "out" / "tokens", strict=True) == dataset, "strict is not part of the key"


@pytest.mark.usefixtures("a_part_each")
def test_file_that_changes_before_the_end(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pool.prepare_part

    def changed(part: parts.Part, *arguments: Any) -> None:
        whole(part, *arguments)
        if part.number == 9:
            (corpus / "00.txt").write_text("something else")

    monkeypatch.setattr(pool, "prepare_part", changed)
    with pytest.raises(DataError, match=r"00\.txt was changed while it was prepared"):
        prepare(str(corpus), tmp_path / "out" / "tokens")
    assert os.listdir(tmp_path / "out") == [".tokens.lock"]


def test_folder_that_cannot_be_written(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"/proc/tokens cannot be written"):
        prepare(str(corpus), Path("/proc/tokens"))


def test_opening_writes_nothing(corpus: Path, tmp_path: Path) -> None:
    dataset = prepare(str(corpus), tmp_path / "out" / "tokens")
    (tmp_path / "out" / ".tokens.lock").unlink()
    times = {path: path.stat().st_mtime_ns for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]}
    assert prepare(str(corpus), tmp_path / "out" / "tokens") == dataset
    assert {path: path.stat().st_mtime_ns for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]} == times


def test_litdata_reads_a_split(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litdata_dataset, "_check_version_and_prompt_upgrade", lambda version: None)  # asks an index
    dataset = prepare(str(corpus), tmp_path / "tokens")
    theirs = litdata.StreamingDataset(str(tmp_path / "tokens" / TRAIN), item_loader=litdata.TokensLoader(16))
    expected = stream(dataset, TRAIN)
    assert len(theirs) == len(expected) // 16 > 10
    assert [i for block in range(len(theirs)) for i in theirs[block].tolist()] == expected[: 16 * len(theirs)]


def test_files_are_grouped_in_order_by_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "_MIN_PART_BYTES", 100)
    monkeypatch.setattr(parts, "_MAX_PART_BYTES", 200)
    sizes = [60, 60, 60, 300, 10, 10, 150, 40]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.txt").write_bytes(b"x" * size)
    files = Preparation(str(tmp_path), build_tokenizer("bytes"), folder=str(tmp_path / "x")).files
    assert [[f.size for f in part.files] for part in parts.group_files(files)] == [
        [60, 60],
        [60],
        [300],
        [10, 10, 150],
        [40],
    ]


@pytest.mark.usefixtures("a_part_each")
def test_same_bytes_for_any_number_of_workers(
    corpus: Path, tmp_path: Path, byte_level_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_files(corpus, "zz.txt", "nothing")
    (corpus / "empty.txt").write_bytes(b"")
    (corpus / "zz.jsonl").write_text('{"text": "good <s>"}\n{\n{}\n{"text": ""}')
    (corpus / "xx.txt").write_bytes(b"a\xff")
    one = prepare(str(corpus), tmp_path / "one", str(byte_level_file), validation_fraction=0.3)
    three = prepare(str(corpus), tmp_path / "three", str(byte_level_file), validation_fraction=0.3, num_workers=3)
    assert content(one.folder) == content(three.folder)
    assert one.manifest["skipped"]["counts"] == {"broken JSON": 1, "empty file": 1, "missing text field": 1}
    assert one.manifest["replaced"]["counts"] == {"undecodable bytes": 1}
    monkeypatch.setattr(parts, "_MAX_PART_BYTES", 1 << 30)
    monkeypatch.setattr(parts, "_MIN_PART_BYTES", 1 << 30)
    whole = prepare(str(corpus), tmp_path / "whole", str(byte_level_file), validation_fraction=0.3)
    assert [stream(whole, split) for split in (TRAIN, VALIDATION)] == [stream(one, s) for s in (TRAIN, VALIDATION)]
    assert whole.manifest["splits"] == one.manifest["splits"], "the grouping of files shows in the content hash"


@pytest.mark.parametrize("num_files", [1, 2, 3])
@pytest.mark.usefixtures("a_part_each")
def test_split_is_repaired_over_parts(tmp_path: Path, num_files: int, prepared_parts: list[str]) -> None:
    folder = tmp_path / "few"
    folder.mkdir()
    for number in range(num_files):
        (folder / f"{number}.txt").write_text(words(number))
    dataset = prepare(str(folder), tmp_path / "tokens", validation_fraction=0.001)
    assert dataset.num_tokens(VALIDATION) > 0
    assert len(prepared_parts) == num_files + 1, "a part whose documents stay was prepared again"
    together = sorted(texts(dataset, TRAIN) + texts(dataset, VALIDATION))
    if num_files > 1:
        assert together == sorted(path.read_bytes() for path in folder.iterdir())
        assert dataset.manifest["splits"][VALIDATION]["documents"] == 1


def test_default_num_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    for num_bytes, expected in ((1, 1), (255 << 20, 1), (300 << 20, 2), (700 << 20, 3), (1 << 40, 8)):
        file = SourceFile("a.txt", ".txt", "a.txt", num_bytes, "")
        assert pool.default_num_workers([parts.Part(0, (file,))]) == expected


def test_number_of_workers_out_of_range(corpus: Path) -> None:
    with pytest.raises(DataError, match="num_workers must be at least 1, not 0"):
        prepare(str(corpus), None, num_workers=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "manifest.json is damaged"),
        ("[]", "another program's"),
        ('{"format": "gecko-lab-tokens", "format_version": 0}', "was prepared in format 0"),
        ('{"format": "gecko-lab-tokens", "format_version": 2}', "manifest.json is damaged"),
    ],
)
def test_damaged_manifest(corpus: Path, tmp_path: Path, content: str, message: str) -> None:
    folder = prepare(str(corpus), tmp_path / "tokens").folder
    (folder / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=message):
        TokenDataset.open(folder)


def test_manifest_and_stream_that_differ(corpus: Path, tmp_path: Path) -> None:
    folder = prepare(str(corpus), tmp_path / "tokens").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["train"]["tokens"] += 1
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="train holds"):
        TokenDataset.open(folder)
