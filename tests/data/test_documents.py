from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.errors import DataError
from gecko_lab.data.sources import resolve_sources
from tests.data.corpora import words

TEXTS = [words(i) for i in range(50)]


def read(path: Path, **options: Any) -> list[bytes]:
    reader = DocumentReader(resolve_sources(str(path)), **options)
    documents = list(reader)
    assert reader.bytes_read == reader.num_bytes == path.stat().st_size
    return documents


def lines(texts: list[str], field: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, field: text}) + "\n" for i, text in enumerate(texts)).encode()


@pytest.mark.parametrize("ending", [".txt", ".md", ".py", ".TXT"])
def test_text_is_read_as_raw_bytes(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"document{ending}"
    path.write_bytes(b"line\r\n\xff\x00end")
    assert read(path) == [b"line\r\n\xff\x00end"]


def test_jsonl_in_each_compression(tmp_path: Path) -> None:
    frames = zstandard.compress(lines(TEXTS[:20])) + zstandard.compress(
        lines(TEXTS[20:])
    )  # as several writers leave it
    contents = {".jsonl": lines(TEXTS), ".jsonl.gz": gzip.compress(lines(TEXTS)), ".jsonl.zst": frames}
    for ending, content in contents.items():
        path = tmp_path / f"documents{ending}"
        path.write_bytes(content)
        assert read(path) == [text.encode() for text in TEXTS], ending


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "documents.parquet"
    table = pyarrow.table({"id": list(range(50)), "body": TEXTS})
    pyarrow.parquet.write_table(table, path, row_group_size=7)
    assert read(path, text_field="body") == [text.encode() for text in TEXTS]


def test_empty_documents_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "documents.jsonl"
    path.write_bytes(lines(["a", "", "b"]) + b"\n\n")
    reader = DocumentReader(resolve_sources(str(path)))
    assert list(reader) == [b"a", b"b"]
    assert reader.empty_documents == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": ', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}', "a.jsonl, line 2: not JSON"),
        ("a.jsonl", b"[" * 200_000, "a.jsonl, line 1: (not JSON|JSON nested too deeply)"),
        ("a.jsonl", b'["text"]', "a.jsonl, line 1: a JSON object is expected, not list"),
        ("a.jsonl", b'{"texts": "a", "id": 1}', r"line 1: no field 'text'\. Did you mean 'texts'\? .* 'texts', 'id'"),
        ("a.jsonl", b'{"text": 1}', "line 1: field 'text' must be text, not int"),
        ("a.jsonl.gz", gzip.compress(lines(TEXTS))[:-20], "a.jsonl.gz is broken after line"),
        ("a.jsonl.gz", b"plain", "a.jsonl.gz is broken after line 0"),
        ("a.jsonl.zst", zstandard.compress(lines(TEXTS))[:-20], "a.jsonl.zst is broken after line"),
        ("a.jsonl.zst", b"plain text, not zstandard", "a.jsonl.zst is broken after line 0"),
        ("a.parquet", b"PAR1 no", "a.parquet is not a whole .parquet file"),
        ("a.parquet", b"", "a.parquet is not a whole .parquet file"),
    ],
)
def test_broken_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"texts": ["a"]}, r"no field 'text'\. Did you mean 'texts'"),
        ({"text": [1]}, "column 'text' must be text, not int64"),
        ({"text": ["a", None]}, "row 2: column 'text' has no text"),
    ],
)
def test_parquet_mistakes(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.parquet")


def test_file_that_disappeared(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a")
    reader = DocumentReader(resolve_sources(str(path)))
    path.unlink()
    with pytest.raises(DataError, match=r"a\.txt cannot be read"):
        list(reader)
