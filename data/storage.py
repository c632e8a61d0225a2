"""Streams of tokens as LitData chunks: writing them and reading blocks of them by index.

LitData's `BinaryWriter` and `BinaryReader` are used directly. `litdata.optimize` and `StreamingDataset` around them ask
the package index for a newer version at every start (30 s where a firewall drops packets), and `optimize` returns
normally when its worker died. What is written here is read by `litdata.StreamingDataset` with a `TokensLoader` too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gecko_lab.data.errors import DataError

INDEX_FILE = "index.json"

# Items are slabs of the stream, not documents: chunks become exactly full, and no item reaches the 4 GiB at which
# LitData's 32-bit offsets wrap round. A chunk's tail that fills no block is lost, so chunks are long against blocks.
_SLAB_TOKENS = 1 << 20
_CHUNK_TOKENS = 32 * _SLAB_TOKENS
# Each mapped chunk holds a file descriptor, and LitData's reader lets none go.
_MAX_OPEN_CHUNKS = 128


def storage_dtype(vocab_size: int) -> np.dtype[Any]:
    """Smallest type for the ids that LitData's `TokensLoader` reads: uint16 (as NumPy, not as torch), else int32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


class TokenWriter:
    """Writes one stream of tokens into a folder.

    Arguments:
        folder: created; must not hold anything yet.
        dtype: of the tokens on disk.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        from litdata.streaming.item_loader import TokensLoader
        from litdata.streaming.writer import BinaryWriter

        folder.mkdir()
        self.folder = folder
        self.num_tokens = 0
        self._dtype = dtype
        self._writer = BinaryWriter(str(folder), chunk_size=_CHUNK_TOKENS, item_loader=TokensLoader(block_size=1))
        self._num_slabs = 0
        self._pending: list[npt.NDArray[Any]] = []
        self._num_pending = 0

    def add(self, ids: npt.NDArray[Any]) -> None:
        """Appends ids `[num_tokens]` to the stream."""
        self._pending.append(ids.astype(self._dtype))
        self._num_pending += len(ids)
        self.num_tokens += len(ids)
        if self._num_pending >= _SLAB_TOKENS:
            self._write_slabs(np.concatenate(self._pending))

    def close(self) -> None:
        """Writes the rest and the index, and checks that all of it is on the disk.

        Raises:
            DataError: what lies in the folder is not what was added.
        """
        if self._num_pending:
            stream = np.concatenate(self._pending)
            self._write_slabs(stream)
            if self._num_pending:
                self._write_slab(self._pending[0])
        self._pending = []
        if self.num_tokens == 0:
            (self.folder / INDEX_FILE).write_text(json.dumps({"chunks": [], "config": None}))
            return
        self._writer.done()
        self._writer._merge_no_wait()
        for path in self.folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        written = sum(chunk["dim"] for chunk in read_index(self.folder))
        if written != self.num_tokens:
            raise DataError(
                f"{self.folder}: {written} of {self.num_tokens} tokens were written; prepare the data again."
            )

    def _write_slabs(self, stream: npt.NDArray[Any]) -> None:
        whole = len(stream) - len(stream) % _SLAB_TOKENS
        for start in range(0, whole, _SLAB_TOKENS):
            self._write_slab(stream[start : start + _SLAB_TOKENS])
        self._pending = [stream[whole:].copy()]
        self._num_pending = len(stream) - whole

    def _write_slab(self, slab: npt.NDArray[Any]) -> None:
        self._writer.add_item(self._num_slabs, slab)
        self._num_slabs += 1


def read_index(folder: Path) -> list[dict[str, Any]]:
    """LitData's entries of the chunks in the folder: `filename`, `dim` (tokens), `chunk_bytes`.

    Raises:
        DataError: the index is missing or unreadable, a chunk is missing or has another size than the index says.
    """
    path = folder / INDEX_FILE
    remedy = "remove the folder and prepare the data again"
    try:
        chunks: list[dict[str, Any]] = json.loads(path.read_text())["chunks"]
        expected = [(str(chunk["filename"]), int(chunk["chunk_bytes"]), int(chunk["dim"])) for chunk in chunks]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a readable LitData index ({error}); {remedy}.") from error
    for filename, num_bytes, _ in expected:
        chunk_path = folder / filename
        if not chunk_path.is_file():
            raise DataError(f"{chunk_path} is missing, which {path} names; {remedy}.")
        if chunk_path.stat().st_size != num_bytes:
            raise DataError(f"{chunk_path} has {chunk_path.stat().st_size} bytes, {path} says {num_bytes}; {remedy}.")
    return chunks


class TokenBlocks(Dataset[Tensor]):
    """Blocks of a stream by index: `blocks[i]` is an int64 tensor `[block_size]`.

    Blocks follow each other without gap or overlap inside a chunk, and none crosses from one chunk to the next.

    Arguments:
        folder: what a `TokenWriter` wrote.
        block_size: tokens in a block.

    Attributes:
        blocks_per_chunk: how many blocks each chunk file holds, in the order of their indices.
    """

    def __init__(self, folder: Path, block_size: int) -> None:
        self.folder = folder
        self.block_size = block_size
        self._chunks = read_index(folder)
        self.blocks_per_chunk = [chunk["dim"] // block_size for chunk in self._chunks]
        self._chunk_ends = np.cumsum(self.blocks_per_chunk, dtype=np.int64)
        self._reader: Any = None
        self._loader: Any = None
        self._open_chunks: set[int] = set()

    def __len__(self) -> int:
        return sum(self.blocks_per_chunk)

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """The blocks of a batch, int64 `[len(indices), block_size]`; what a DataLoader calls."""
        batch = np.empty((len(indices), self.block_size), dtype=np.int64)
        for row, index in enumerate(indices):
            batch[row] = self.read(index)
        return torch.from_numpy(batch)

    def read(self, index: int) -> npt.NDArray[Any]:
        """Block `index` as it is stored, `[block_size]`: a view into the file, good until the next read.

        Raises:
            IndexError: there is no such block.
            DataError: its chunk has disappeared.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        from litdata.streaming.sampler import ChunkedIndex

        chunk = int(np.searchsorted(self._chunk_ends, index, side="right"))
        self._open(chunk)
        block: npt.NDArray[Any] = self._reader.read(ChunkedIndex(index=int(index), chunk_index=chunk))
        return block

    def _open(self, chunk: int) -> None:
        if chunk in self._open_chunks and self._reader is not None:
            return
        if self._reader is None or len(self._open_chunks) >= _MAX_OPEN_CHUNKS:
            from litdata.streaming.item_loader import TokensLoader
            from litdata.streaming.reader import BinaryReader

            self._loader = TokensLoader(block_size=self.block_size)
            self._reader = BinaryReader(str(self.folder), item_loader=self._loader)
            self._reader._try_load_config()
            self._open_chunks = set()
        path = self.folder / self._chunks[chunk]["filename"]
        if not path.is_file():  # LitData would wait two minutes for it
            raise DataError(f"{path} has disappeared; remove its folder and prepare the data again.")
        self._loader.pre_load_chunk(chunk, str(path))  # without it, LitData sleeps 0.1 s at each chunk's first block
        self._open_chunks.add(chunk)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_reader": None, "_loader": None, "_open_chunks": set()}


def read_chunks(folder: Path) -> Iterator[npt.NDArray[Any]]:
    """The whole stream, chunk by chunk, each `[num_tokens]` in the type on disk."""
    chunks = read_index(folder)
    for number, chunk in enumerate(chunks):
        blocks = TokenBlocks(folder, block_size=chunk["dim"])
        yield blocks.read(sum(blocks.blocks_per_chunk[:number])).copy()
