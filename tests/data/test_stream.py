from __future__ import annotations

import http.server
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.data import folders, stream
from gecko_lab.data.dataset import TokenDataset, is_prepared
from gecko_lab.data.errors import DataError
from tests.data.prepared import documents_of, write_dataset

DOCUMENTS = documents_of([1, 90, 2, 64, 30, 1, 113])
TOKENS = np.concatenate(DOCUMENTS)


@pytest.fixture(scope="module", params=["uint16", "int32"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    """301 tokens in chunks of 1, 64, 0, 100, 100 and 36 tokens; the validation is empty."""
    folder = tmp_path_factory.mktemp("stream") / "dataset"
    return write_dataset(folder, DOCUMENTS, chunk_tokens=[1, 64, 0, 100, 100], dtype=request.param)


@given(st.tuples(st.integers(0, 301), st.integers(0, 301)).map(sorted))
def test_read_any_range(dataset: TokenDataset, bounds: list[int]) -> None:
    tokens = dataset.stream("train").read(*bounds)
    assert tokens.dtype == np.int64
    assert np.array_equal(tokens, TOKENS[slice(*bounds)])


def test_stream_beyond_its_ends(dataset: TokenDataset) -> None:
    found = dataset.stream("train")
    assert len(found) == 301
    assert found.chunk_starts == [0, 1, 65, 65, 165, 265, 301]
    for bounds in ((-1, 3), (300, 302), (302, 303)):
        with pytest.raises(IndexError, match="of 301"):
            found.read(*bounds)


def test_few_chunks_stay_open(dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_MAX_OPEN_CHUNKS", 2)
    found = dataset.stream("train")
    for start in (0, 290, 70, 0, 200):
        assert np.array_equal(found.read(start, start + 11), TOKENS[start : start + 11])
        assert len(found._opened) <= 2
    copy = pickle.loads(pickle.dumps(found))
    assert not copy._opened
    assert np.array_equal(copy.read(0, 301), TOKENS)


def test_documents_and_lengths(dataset: TokenDataset) -> None:
    assert dataset.stream("train").lengths.tolist() == [len(document) for document in DOCUMENTS]
    assert all(np.array_equal(a, b[1:]) for a, b in zip(dataset.documents("train"), DOCUMENTS, strict=True))
    empty = dataset.stream("validation")
    assert (len(empty), list(empty.documents()), empty.chunk_starts) == (0, [], [0])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


LATE = [
    ("train/chunk-0-1.bin", flip, r"chunk-0-1\.bin is damaged"),
    ("train/chunk-0-1.bin", truncate, r"chunk-0-1\.bin has \d+ bytes, not \d+"),
    ("train/chunk-0-1.bin", Path.unlink, r"chunk-0-1\.bin is missing"),
    ("train/checksums.json", flip, r"checksums\.json is damaged"),
    ("train/checksums.json", Path.unlink, r"checksums\.json cannot be read"),
    ("train/lengths.bin", truncate, r"lengths\.bin does not hold the lengths"),
    ("train/lengths.bin", flip, r"lengths\.bin does not hold the lengths"),
]
EARLY = [
    ("train/index.json", truncate, r"index\.json is damaged"),
    ("manifest.json", truncate, r"is not a prepared dataset: .*manifest\.json is damaged"),
    ("manifest.json", Path.unlink, r"is not a prepared dataset: .*manifest\.json cannot be read"),
]


@pytest.mark.parametrize(("name", "damage", "message"), EARLY + LATE)
def test_damage_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None], message: str) -> None:
    write_dataset(tmp_path / "dataset", DOCUMENTS)
    damage(tmp_path / "dataset" / name)
    with pytest.raises(DataError, match=f"{message}.*prepare the data again"):
        list(TokenDataset.open(tmp_path / "dataset").documents("train"))


@pytest.mark.parametrize(("name", "damage", "message"), LATE)
def test_damage_after_opening_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None], message: str) -> None:
    found = write_dataset(tmp_path / "dataset", DOCUMENTS).stream("train")
    damage(tmp_path / "dataset" / name)
    with pytest.raises(DataError, match=f"{message}.*prepare the data again"):
        list(found.documents())


@pytest.mark.parametrize("index", ["", "{}", "[]", '{"chunks": 1}', '{"chunks": [{}]}', '{"chunks": [1]}'])
def test_index_that_is_none(tmp_path: Path, index: str) -> None:
    write_dataset(tmp_path / "dataset", DOCUMENTS)
    (tmp_path / "dataset/train/index.json").write_text(index)
    with pytest.raises(DataError, match=r"index\.json is .*prepare the data again"):
        TokenDataset.open(tmp_path / "dataset")


def test_a_chunk_is_checked_once(dataset: TokenDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset.stream("train").read(0, 301)
    monkeypatch.setattr(folders.hashlib, "blake2b", None)
    assert np.array_equal(dataset.stream("train").read(0, 301), TOKENS)


@pytest.fixture(params=["memory", "http"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A dataset of chunks of 64 tokens behind a URL; its files are those of `tmp_path/dataset`."""
    folder = tmp_path / "dataset"
    write_dataset(folder, DOCUMENTS)
    if request.param == "memory":
        system = fsspec.filesystem("memory")
        system.put(str(folder), "/dataset", recursive=True)
        yield "memory://dataset"
        system.rm("/dataset", recursive=True)
        return
    handler = partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/dataset"
        server.shutdown()
        thread.join()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def test_remote_stream(url: str, tmp_path: Path) -> None:
    assert is_prepared(url)
    assert not is_prepared(f"{url}/train")
    dataset = TokenDataset.open(url)
    assert dataset.folder == url
    cache = tmp_path / "cache"
    found = dataset.stream("train", cache_folder=str(cache))
    assert not cache.exists()
    assert np.array_equal(found.read(70, 80), TOKENS[70:80])
    assert len(list(cache.iterdir())) == 1
    assert np.array_equal(pickle.loads(pickle.dumps(found)).read(0, 301), TOKENS)
    assert len(list(cache.iterdir())) == 5
    assert found.lengths.tolist() == [len(document) for document in DOCUMENTS]


def test_remote_chunks_make_room_for_others(url: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    size = (tmp_path / "dataset/train/chunk-0-0.bin").stat().st_size
    found = TokenDataset.open(url).stream("train", cache_folder=str(cache), cache_bytes=2 * size)
    for start in (0, 64, 0, 128, 192, 290, 0):
        assert found.read(start, start + 3).tolist() == TOKENS[start : start + 3].tolist()
        assert sum(path.stat().st_size for path in cache.iterdir()) <= 2 * size
    nothing = TokenDataset.open(url).stream("train", cache_folder=str(cache), cache_bytes=0)
    assert np.array_equal(nothing.read(0, 301), TOKENS)
    assert len(list(cache.iterdir())) == 1


def test_remote_cache_that_is_damaged_is_fetched_again(url: str, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    dataset = TokenDataset.open(url)
    dataset.stream("train", cache_folder=str(cache)).read(0, 10)
    flip(*cache.iterdir())
    assert np.array_equal(dataset.stream("train", cache_folder=str(cache)).read(0, 64), TOKENS[:64])


def test_remote_damage_is_named(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_PAUSE", 0.0)
    found = TokenDataset.open(url).stream("train", cache_folder=str(tmp_path / "cache"))
    system, path = fsspec.core.url_to_fs(f"{url}/train/chunk-0-0.bin")
    local = tmp_path / "dataset/train/chunk-0-0.bin"
    flip(local)
    if url.startswith("memory"):
        system.put(str(local), path)
    with pytest.raises(DataError, match=r"/dataset/train/chunk-0-0\.bin is damaged.*prepare the data again"):
        found.read(0, 3)
    local.unlink()
    if url.startswith("memory"):
        system.rm(path)
    with pytest.raises(DataError, match=r"/dataset/train/chunk-0-0\.bin is missing.*prepare the data again"):
        found.read(0, 3)
    assert not list((tmp_path / "cache").iterdir())


def test_remote_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_PAUSE", 0.0)
    with pytest.raises(DataError, match=r"nothing://here .*nothing://here cannot be read"):
        TokenDataset.open("nothing://here")
    with http.server.HTTPServer(("127.0.0.1", 0), QuietHandler) as server:
        port = server.server_port
    with pytest.raises(DataError, match=r"manifest\.json cannot be fetched"):
        TokenDataset.open(f"http://127.0.0.1:{port}/x")
