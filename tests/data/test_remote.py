from __future__ import annotations

import functools
import gzip
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from gecko_lab.data import remote
from gecko_lab.data.bad_input import BROKEN_COMPRESSION, UNREADABLE_FILE
from gecko_lab.data.documents import DocumentReader
from gecko_lab.data.errors import DataError
from gecko_lab.data.preparation import Preparation
from gecko_lab.data.sources import resolve_sources
from gecko_lab.data.tokenizers import build_tokenizer
from tests.data.corpora import words

TEXTS = [words(i) for i in range(30)]
DOCUMENTS = [text.encode() for text in TEXTS]
LINES = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Gives files in one piece only, and cuts short those whose name says so."""

    def log_message(self, *arguments: Any) -> None:
        pass

    def copyfile(self, source: Any, outputfile: Any) -> None:
        content = source.read()
        outputfile.write(content[: len(content) // 2] if "cut" in self.path else content)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of each kind with the same documents."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "a.jsonl").write_bytes(LINES)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(LINES))
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), folder / "d.parquet", row_group_size=7)
    (folder / "picture.png").write_bytes(b"\x89PNG")
    (folder / "cut.jsonl").write_bytes(LINES * 50)
    (folder / "sub").mkdir()
    (folder / "sub" / "e.txt").write_bytes(DOCUMENTS[0])
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The folder behind `http://`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def memory(folder: Path) -> Iterator[str]:
    """The folder behind `memory://`."""
    system = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            system.pipe(f"/texts/{path.relative_to(folder)}", path.read_bytes())
    yield "memory://texts"
    system.rm("/texts", recursive=True)


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet"])
def test_each_kind_is_read(address: str, memory: str, folder: Path, name: str) -> None:
    for place in (address, memory):
        (file,) = resolve_sources(f"{place}/{name}")
        assert (file.size, file.is_remote) == ((folder / name).stat().st_size, True)
        assert file.version
        reader = DocumentReader([file])
        assert list(reader) == DOCUMENTS
        assert reader.bytes_read == file.size


def test_server_that_gives_parts(address: str, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is read where it lies if that is possible, otherwise it is copied first."""
    copied: list[int] = []
    whole = remote.tempfile.TemporaryFile
    monkeypatch.setattr(remote.tempfile, "TemporaryFile", lambda: copied.append(1) or whole())
    assert list(DocumentReader(resolve_sources(f"{memory}/d.parquet"))) == DOCUMENTS
    assert copied == []
    assert list(DocumentReader(resolve_sources(f"{address}/d.parquet"))) == DOCUMENTS
    assert copied == [1]


def test_folders_and_globs(address: str, memory: str) -> None:
    known = ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "cut.jsonl", "d.parquet"]
    for place in (address, memory):
        names = [file.location.rsplit("/", 1)[1] for file in resolve_sources(place)]
        assert sorted(names) == sorted([*known, "e.txt"])
        assert [f.location.rsplit("/", 1)[1] for f in resolve_sources(f"{place}/*.jsonl*")] == known[:4]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.jsonl", "nowhere.jsonl' does not exist"),
        ("picture.png", "picture.png is of an unknown type"),
        ("*.png", r"picture.png, which .*\*.png' names, is of an unknown type"),
        ("*.txt", r"no file matches the glob '.*\*.txt'"),
    ],
)
def test_mistakes(address: str, memory: str, name: str, message: str) -> None:
    for place in (address, memory):
        with pytest.raises(DataError, match=message):
            resolve_sources(f"{place}/{name}")


def test_places_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.jsonl", "folder", "*.jsonl"):
        with pytest.raises(DataError, match=r"http://127.0.0.1:9/.* cannot be reached or read \(ClientConnectorError"):
            resolve_sources(f"http://127.0.0.1:9/{name}")
    with pytest.raises(DataError, match=r"'nonsense://a.jsonl' cannot be opened \(.*nonsense"):
        resolve_sources("nonsense://a.jsonl")
    for package, url in (
        ("s3fs", "s3://bucket/a.jsonl"),
        ("gcsfs", "gs://bucket/*.jsonl"),
        ("aiohttp", "https://h/a.txt"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(DataError, match=rf"{url.replace('*', '.')}' needs a package .* \(pip install {package}\)"):
            resolve_sources(url)


def test_connection_that_breaks_is_no_bad_input(address: str) -> None:
    (file,) = resolve_sources(f"{address}/cut.jsonl")
    with pytest.raises(DataError, match=r"cut\.jsonl (cannot be reached or read|ended after)"):
        list(DocumentReader([file]))


def test_file_that_disappeared_or_is_broken(memory: str) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/texts/broken.jsonl.gz", gzip.compress(LINES)[:-4])
    reader = DocumentReader(resolve_sources([f"{memory}/a.jsonl", f"{memory}/broken.jsonl.gz"]))
    system.rm("/texts/a.jsonl")
    assert list(reader) == DOCUMENTS
    assert reader.account.skipped.counts == {UNREADABLE_FILE: 1, BROKEN_COMPRESSION: 1}


def test_preparation(address: str, memory: str, tmp_path: Path) -> None:
    found = {}
    for name, source in {"http": f"{address}/a.jsonl", "memory": f"{memory}/a.jsonl"}.items():
        preparation = Preparation(source, build_tokenizer("bytes"), folder=str(tmp_path / name), num_workers=2)
        found[name] = preparation.run(False)
        assert Preparation(source, build_tokenizer("bytes"), folder=str(tmp_path / name)).key == preparation.key
    splits = [dataset.manifest["splits"] for dataset in found.values()]
    assert splits[0] == splits[1]
    assert splits[0]["train"]["documents"] + splits[0]["validation"]["documents"] == 30
    key = found["memory"].key
    fsspec.filesystem("memory").pipe("/texts/a.jsonl", LINES[:-1] + b" ")
    changed = Preparation(f"{memory}/a.jsonl", build_tokenizer("bytes"), folder=str(tmp_path / "memory"))
    assert changed.key != key
