from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from gecko_lab.data import storage
from gecko_lab.data.errors import DataError
from gecko_lab.data.storage import TokenBlocks, TokenWriter, read_chunks, storage_dtype


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The tokens of `tmp_path/tokens`: 4 chunks of 64 tokens and one of 44."""
    monkeypatch.setattr(storage, "_SLAB_TOKENS", 16)
    monkeypatch.setattr(storage, "_CHUNK_TOKENS", 64)
    tokens = np.random.default_rng(0).integers(0, 60_000, size=300)
    writer = TokenWriter(tmp_path / "tokens", storage_dtype(60_000))
    for piece in np.split(tokens, [1, 1, 7, 90, 91, 250]):
        writer.add(piece)
    writer.close()
    assert writer.num_tokens == 300
    return tokens


def test_stream_comes_back(stream: np.ndarray, tmp_path: Path) -> None:
    chunks = list(read_chunks(tmp_path / "tokens"))
    assert [len(chunk) for chunk in chunks] == [64, 64, 64, 64, 44]
    assert np.array_equal(np.concatenate(chunks), stream)
    assert chunks[0].dtype == np.uint16


@pytest.mark.parametrize("block_size", [1, 7, 16, 44, 50, 64])
def test_blocks(stream: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_size: int) -> None:
    monkeypatch.setattr(storage, "_MAX_OPEN_CHUNKS", 2)
    blocks = TokenBlocks(tmp_path / "tokens", block_size)
    expected = [
        stream[start + i : start + i + block_size]
        for start in range(0, 300, 64)
        for i in range(0, min(64, 300 - start) - block_size + 1, block_size)
    ]
    assert len(blocks) == len(expected) == sum(blocks.blocks_per_chunk)
    indices = np.random.default_rng(1).permutation(len(blocks)).tolist()
    batch = blocks.__getitems__(indices)
    assert batch.dtype == torch.int64
    assert torch.equal(batch, torch.from_numpy(np.stack([expected[i] for i in indices])))
    copy = pickle.loads(pickle.dumps(blocks))
    assert torch.equal(copy[len(blocks) - 1], batch[indices.index(len(blocks) - 1)])
    with pytest.raises(IndexError):
        blocks[len(blocks)]


def test_litdata_reads_it(stream: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import litdata
    from litdata.streaming import dataset

    monkeypatch.setattr(dataset, "_check_version_and_prompt_upgrade", lambda version: None)  # asks the package index
    theirs = litdata.StreamingDataset(str(tmp_path / "tokens"), item_loader=litdata.TokensLoader(block_size=16))
    ours = TokenBlocks(tmp_path / "tokens", 16)
    assert len(theirs) == len(ours)
    assert all(np.array_equal(theirs[i], ours[i]) for i in range(len(ours)))


def test_empty_stream(tmp_path: Path) -> None:
    TokenWriter(tmp_path / "tokens", storage_dtype(257)).close()
    assert len(TokenBlocks(tmp_path / "tokens", 4)) == 0
    assert list(read_chunks(tmp_path / "tokens")) == []


def test_storage_dtype() -> None:
    assert [storage_dtype(size) for size in (257, 65_536, 65_537)] == [np.uint16, np.uint16, np.int32]


def test_large_ids(tmp_path: Path) -> None:
    writer = TokenWriter(tmp_path / "tokens", storage_dtype(200_000))
    writer.add(np.array([0, 65_536, 199_999]))
    writer.close()
    assert TokenBlocks(tmp_path / "tokens", 3)[0].tolist() == [0, 65_536, 199_999]


def test_damage_is_named(stream: np.ndarray, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    chunk = folder / json.loads((folder / "index.json").read_text())["chunks"][1]["filename"]
    blocks = TokenBlocks(folder, 16)
    content = chunk.read_bytes()
    chunk.write_bytes(content[:-1])
    with pytest.raises(DataError, match=f"{chunk.name} has {len(content) - 1} bytes"):
        TokenBlocks(folder, 16)
    chunk.unlink()
    with pytest.raises(DataError, match=f"{chunk.name} is missing"):
        TokenBlocks(folder, 16)
    with pytest.raises(DataError, match=f"{chunk.name} has disappeared"):
        blocks[4]
    for index in ("", "{}", '{"chunks": 1}', '{"chunks": [{}]}'):
        (folder / "index.json").write_text(index)
        with pytest.raises(DataError, match="not a readable LitData index"):
            TokenBlocks(folder, 16)


def test_writer_that_lost_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = TokenWriter(tmp_path / "tokens", storage_dtype(257))
    writer.add(np.arange(10))
    writer.num_tokens += 1
    with pytest.raises(DataError, match="10 of 11 tokens"):
        writer.close()
