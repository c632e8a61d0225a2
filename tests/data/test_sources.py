from __future__ import annotations

import os
from pathlib import Path

import pytest

from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.errors import DataError
from gecko_lab.data.sources import SourceChanged, resolve_sources


def names(sources: str | list[str]) -> list[str]:
    return [Path(file.location).name for file in resolve_sources(sources)]


def test_folder_is_read_recursively_and_sorted(corpus: Path) -> None:
    (corpus / ".hidden.txt").write_text("x")
    (corpus / ".git").mkdir()
    (corpus / ".git" / "x.txt").write_text("x")
    even, odd = ([f"{i:02}.txt" for i in range(start, 40, 2)] for start in (0, 1))
    assert names(str(corpus)) == [*even, "empty.txt", *odd]


def test_files_and_globs_come_once_in_the_order_named(corpus: Path) -> None:
    found = names([str(corpus / "deep/03.txt"), str(corpus / "**" / "0*.txt")])
    assert found == ["03.txt", "00.txt", "02.txt", "04.txt", "06.txt", "08.txt", "01.txt", "05.txt", "07.txt", "09.txt"]


def test_standard_library() -> None:
    files = resolve_sources("stdlib")
    assert files == resolve_sources("stdlib")
    assert len(files) > 300
    paths = [file.name.split("/", 1)[1] for file in files]
    assert "argparse.py" in paths
    assert all(file.size for file in files), "an empty file is bad input"
    assert "json/decoder.py" in paths
    assert not [p for p in paths if {"test", "tests", "idle_test", "site-packages", "__pycache__"} & set(p.split("/"))]
    topics = [file for file in files if file.file_type == "topics"]
    documents = list(DocumentReader(topics))
    assert len(documents) > 50
    assert any(b'The "assert" statement' in document for document in documents)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.txt", r"'nowhere.txt' does not exist .* Valid are files, folders and globs, their URLs,"),
        ("corpsu", r"'corpsu' does not exist .* Did you mean 'corpus'\?"),
        ("corpus/picture.png", r"corpus/picture.png is of an unknown type. Valid are .txt, .md"),
        ("corpus/*", r"corpus/picture.png, which 'corpus/\*' names, is of an unknown type"),
        ("corpus/*.parquet", r"no file matches the glob 'corpus/\*.parquet'"),
        ("void", r"the folder 'void' holds no file of a known type"),
        ("x\0y", r"'x\\x00y' (cannot be a path|does not exist)"),
        ("x" * 5000, r"(cannot be a path|does not exist)"),
    ],
)
def test_mistakes(corpus: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(corpus.parent)
    Path("void").mkdir()
    with pytest.raises(DataError, match=message):
        resolve_sources(source)
    with pytest.raises(DataError, match="the list is empty"):
        resolve_sources([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(corpus: Path) -> None:
    (corpus / "00.txt").chmod(0)
    with pytest.raises(DataError, match="permission denied"):
        resolve_sources(str(corpus))


def test_file_urls_are_paths(corpus: Path) -> None:
    assert resolve_sources(f"file://{corpus}/0*.txt") == resolve_sources(f"{corpus}/0*.txt")


def test_versions_tell_contents_apart(corpus: Path) -> None:
    (before,) = resolve_sources(str(corpus / "00.txt"))
    os.utime(corpus / "00.txt", ns=(1, 1))
    (after,) = resolve_sources(str(corpus / "00.txt"))
    assert (before.name, before.size) == (after.name, after.size)
    assert before.version != after.version
    after.check_unchanged()
    with pytest.raises(SourceChanged, match=r"00\.txt was changed"):
        before.check_unchanged()
