from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gecko_lab.data import preparation, storage
from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError
from gecko_lab.data.preparation import Preparation
from gecko_lab.data.split import TRAIN, VALIDATION
from gecko_lab.data.tokenizers import build_tokenizer


def prepare(sources: str | list[str], folder: Path | None, tokenizer: str = "bytes", **options: Any) -> TokenDataset:
    place = None if folder is None else str(folder)
    return Preparation(sources, build_tokenizer(tokenizer), folder=place, **options).run(progress=False)


def texts(dataset: TokenDataset, split: str) -> list[bytes]:
    return [ids.astype(np.uint8).tobytes() for ids in dataset.documents(split)]


def stream(dataset: TokenDataset, split: str) -> list[int]:
    return [int(i) for chunk in storage.read_chunks(dataset.folder / split) for i in chunk]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks so short that documents go on from one to the next."""
    monkeypatch.setattr(storage, "_SLAB_TOKENS", 256)
    monkeypatch.setattr(storage, "_CHUNK_TOKENS", 1024)


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
    assert dataset.manifest["empty_documents"] == 1


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
    with pytest.raises(DataError, match="hold no text to train on"):
        prepare(str(tmp_path / "a.txt"), tmp_path / "tokens")
    assert sorted(os.listdir(tmp_path)) == [".tokens.lock", "a.txt"]


def test_failure_leaves_nothing(corpus: Path, tmp_path: Path) -> None:
    (corpus / "zz.jsonl").write_text("{")
    with pytest.raises(DataError, match=r"zz\.jsonl, line 1"):
        prepare(str(corpus), tmp_path / "out" / "tokens")
    assert os.listdir(tmp_path / "out") == [".tokens.lock"]


def test_folder_that_cannot_be_written(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"/proc/tokens cannot be written"):
        prepare(str(corpus), Path("/proc/tokens"))


KILLED = """
import sys, time
from gecko_lab.data import preparation
from gecko_lab.data.tokenizers import build_tokenizer
whole = preparation._SplitWriter.close
def slow(self):
    result = whole(self)
    print("writing", flush=True)
    time.sleep(60)
    return result
preparation._SplitWriter.close = slow
preparation.Preparation(sys.argv[1], build_tokenizer("bytes"), folder=sys.argv[2]).run(False)
"""


def test_killed_preparation_leaves_nothing_under_the_name(corpus: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(corpus), str(tmp_path / "out" / "tokens")]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
    assert sorted(os.listdir(tmp_path / "out")) == [".tokens.lock", ".tokens.partial"]
    assert prepare(str(corpus), tmp_path / "out" / "tokens").num_tokens(TRAIN) > 0
    assert sorted(os.listdir(tmp_path / "out")) == [".tokens.lock", "tokens"]


def prepare_in_process(corpus: Path, folder: Path, results: Any) -> None:
    whole = preparation._SplitWriter.close

    def slow(self: Any) -> Any:
        results.put("prepared")
        time.sleep(0.2)
        return whole(self)

    preparation._SplitWriter.close = slow  # type: ignore[method-assign]
    results.put(prepare(str(corpus), folder).manifest)


def test_processes_prepare_the_same_once(corpus: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [
        context.Process(target=prepare_in_process, args=(corpus, tmp_path / "tokens", results)) for _ in range(3)
    ]
    for process in processes:
        process.start()
    found = [results.get() for _ in range(5)]
    for process in processes:
        process.join()
    assert found.count("prepared") == 2, "each of the two splits must be written once"
    manifests = [manifest for manifest in found if manifest != "prepared"]
    assert manifests == [manifests[0]] * 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "manifest.json cannot be read"),
        ("[]", "another program's"),
        ('{"format": "gecko-lab-tokens", "format_version": 0}', "was prepared in format 0"),
        ('{"format": "gecko-lab-tokens", "format_version": 1}', "manifest.json is damaged"),
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
