from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.data import storage
from gecko_lab.data.errors import DataError
from gecko_lab.data.storage import TokenWriter, storage_dtype


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4 items of 16 tokens, so that documents go on from one to the next."""
    monkeypatch.setattr(storage, "_SLAB_TOKENS", 16)
    monkeypatch.setattr(storage, "_CHUNK_SLABS", 4)


def write(folder: Path, documents: list[np.ndarray], vocab_size: int = 60_001) -> TokenWriter:
    writer = TokenWriter(folder, storage_dtype(vocab_size), bos_id=vocab_size - 1)
    for document in documents:
        writer.add(document)
    writer.close()
    return writer


def stored_tokens(writer: TokenWriter, dtype: Any) -> list[np.ndarray]:
    """The tokens of each chunk, read by the layout that the format promises."""
    found = []
    for chunk in writer.chunks:
        content = (writer.folder / chunk.entry["filename"]).read_bytes()
        num_items = int(np.frombuffer(content, np.uint32, 1)[0])
        offsets = np.frombuffer(content, np.uint32, num_items + 1, 4)
        assert offsets[0] == 4 * (num_items + 2)
        assert offsets[-1] == len(content) == chunk.entry["chunk_bytes"]
        assert hashlib.blake2b(content, digest_size=16).hexdigest() == chunk.checksum
        found.append(np.frombuffer(content, dtype, offset=int(offsets[0])))
        assert len(found[-1]) == chunk.entry["dim"]
    return found


@given(lengths=st.lists(st.integers(0, 150), max_size=8))
def test_stream_comes_back(tmp_path_factory: pytest.TempPathFactory, lengths: list[int]) -> None:
    documents = [np.random.default_rng(i).integers(0, 60_000, size=n) for i, n in enumerate(lengths)]
    writer = write(tmp_path_factory.mktemp("stream") / "tokens", documents)
    expected = [i for document in documents for i in (60_000, *document.tolist())]
    chunks = stored_tokens(writer, np.uint16)
    assert [i for chunk in chunks for i in chunk.tolist()] == expected
    assert all(len(chunk) == 64 for chunk in chunks[:-1])
    assert writer.lengths.tolist() == [n + 1 for n in lengths]
    assert writer.num_tokens == len(expected)


def test_names_of_parts_differ(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path / "tokens", np.dtype(np.uint16), bos_id=9, part=7)
    writer.add(np.arange(200))
    writer.close()
    assert [chunk.entry["filename"] for chunk in writer.chunks] == [f"chunk-7-{i}.bin" for i in range(4)]
    assert writer.config is not None
    assert writer.config["item_loader"] == "TokensLoader"


def test_empty_stream(tmp_path: Path) -> None:
    writer = write(tmp_path / "tokens", [])
    assert (writer.chunks, writer.config, list((tmp_path / "tokens").iterdir())) == ([], None, [])


def test_storage_dtype() -> None:
    assert [storage_dtype(size) for size in (257, 65_536, 65_537)] == [np.uint16, np.uint16, np.int32]


def test_large_ids(tmp_path: Path) -> None:
    writer = write(tmp_path / "tokens", [np.array([0, 65_536])], vocab_size=200_000)
    assert stored_tokens(writer, np.int32)[0].tolist() == [199_999, 0, 65_536]


def test_writer_that_lost_tokens(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path / "tokens", storage_dtype(257), bos_id=256)
    writer.add(np.arange(9))
    writer.num_tokens += 1
    with pytest.raises(DataError, match="10 of 11 tokens"):
        writer.close()


def test_file_that_is_shorter_than_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = storage._checksum_of_synced

    def shortened(path: Path) -> str:
        checksum = synced(path)
        path.write_bytes(path.read_bytes()[:-1])
        return checksum

    monkeypatch.setattr(storage, "_checksum_of_synced", shortened)
    with pytest.raises(DataError, match="tokens were written; run again"):
        write(tmp_path / "tokens", [np.arange(100)])


def test_entries_are_plain(tmp_path: Path) -> None:
    writer = write(tmp_path / "tokens", [np.arange(100)])
    assert json.loads(json.dumps([chunk.entry for chunk in writer.chunks])) == [c.entry for c in writer.chunks]
