from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from gecko_lab.data.bad_input import BROKEN_FILE, MISSING_TEXT, NOT_TEXT
from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.errors import DataError
from gecko_lab.data.preparation import Preparation
from gecko_lab.data.sources import resolve_sources
from gecko_lab.data.tokenizers import build_tokenizer
from tests.data.corpora import words

TEXTS = [words(i) for i in range(30)]
DOCUMENTS = [text.encode() for text in TEXTS]


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """A dataset of three tables for training and one for test."""
    folder = tmp_path / "tables"
    folder.mkdir()
    for number in range(3):
        table = pyarrow.table({"text": TEXTS[number * 10 : number * 10 + 10], "id": list(range(10))})
        pyarrow.parquet.write_table(table, folder / f"train-{number}.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["for the test"], "id": [0]}), folder / "test-0.parquet")
    return folder


def test_shards_are_files(tables: Path) -> None:
    files = resolve_sources(f"hf:{tables}")
    assert [file.shard for file in files] == [0, 1, 2]
    assert [file.size for file in files] == [(tables / f"train-{i}.parquet").stat().st_size for i in range(3)]
    reader = DocumentReader(files)
    assert list(reader) == DOCUMENTS
    assert reader.bytes_read == reader.num_bytes
    assert list(DocumentReader(files[1:2])) == DOCUMENTS[10:20]
    assert list(DocumentReader(resolve_sources(f"hf:{tables}:default:test"))) == [b"for the test"]


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    rows = [{"text": "a"}, {"text": None}, {"text": ""}, {"text": "b"}]
    (tmp_path / "data" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reader = DocumentReader(resolve_sources(f"hf:{tmp_path}/data"))
    assert list(reader) == [b"a", b"b"]
    assert reader.account.skipped.counts == {NOT_TEXT: 1}
    assert reader.account.skipped.first[0].row == 2
    assert reader.account.empty_documents == 1


def test_bad_rows_and_shards(tables: Path) -> None:
    reader = DocumentReader(resolve_sources(f"hf:{tables}"), "body")
    assert list(reader) == []
    assert reader.account.skipped.counts == {MISSING_TEXT: 30}
    assert "The fields are 'text', 'id'" in reader.account.report()
    files = resolve_sources(f"hf:{tables}")
    (tables / "train-1.parquet").write_bytes(b"PAR1 no")
    reader = DocumentReader(files)
    assert list(reader) == DOCUMENTS[:10] + DOCUMENTS[20:]
    assert reader.account.skipped.counts == {BROKEN_FILE: 1}
    assert "(shard 1), row 1: the shard cannot be read on" in reader.account.report()


def test_preparation(tables: Path, tmp_path: Path) -> None:
    def preparation(source: str) -> Preparation:
        return Preparation(source, build_tokenizer("bytes"), cache_folder=str(tmp_path / "cache"), num_workers=1)

    dataset = preparation(f"hf:{tables}").run(False)
    splits = dataset.manifest["splits"]
    assert splits["train"]["documents"] + splits["validation"]["documents"] == 30
    assert preparation(f"hf:{tables}:default:train").key != preparation(f"hf:{tables}:default:test").key
    table = pyarrow.table({"text": ["something else"], "id": [0]})
    pyarrow.parquet.write_table(table, tables / "train-0.parquet")
    assert preparation(f"hf:{tables}").key != dataset.key


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:", "expected hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT"),
        ("hf:a:b:c:d", "expected hf:NAME, hf:NAME:CONFIG or hf:NAME:CONFIG:SPLIT"),
        ("hf:{}/nowhere", "nowhere::train' cannot be loaded \\(FileNotFoundError"),
        (
            "hf:{}/tables::validation",
            r"cannot be loaded \(ValueError: Bad split: validation. Available",
        ),
        ("hf:{}/tables:other", r"cannot be loaded \(ValueError: BuilderConfig 'other' not found"),
    ],
)
def test_mistakes(tables: Path, source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve_sources(source.format(tables.parent))


def test_code_of_a_dataset_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "scripted"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="cannot be loaded"):
        resolve_sources(f"hf:{folder}")
    assert not (tmp_path / "ran").exists()


def test_without_the_library(tables: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'gecko-lab\[huggingface\]'"):
        resolve_sources(f"hf:{tables}")
