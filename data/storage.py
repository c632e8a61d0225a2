"""Writing documents as a stream of tokens in LitData's chunks.

LitData's `BinaryWriter` is used directly. `litdata.optimize` around it asks the package index for a newer version at
every start (30 s where a firewall drops packets), and returns normally when its worker died. What is written here is
read by `litdata.StreamingDataset` with a `TokensLoader` too.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gecko_lab.data.errors import DataError

# Items are slabs of the stream, not documents: no item reaches the 4 GiB at which LitData's 32-bit offsets wrap round.
_SLAB_TOKENS = 1 << 20
_CHUNK_SLABS = 8
_READ_BYTES = 1 << 20


def storage_dtype(vocab_size: int) -> np.dtype[Any]:
    """Smallest type for the ids that LitData's `TokensLoader` reads: uint16 (as NumPy, not as torch), else int32."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.int32)


@dataclass(frozen=True)
class StoredChunk:
    """A chunk file as it was written.

    Attributes:
        entry: of LitData's index: `filename`, `chunk_bytes`, `chunk_size` (items), `dim` (tokens).
        checksum: blake2b of the whole file, 16 bytes, hexadecimal.
    """

    entry: dict[str, Any]
    checksum: str


class TokenWriter:
    """Writes documents, each behind its BOS, into chunk files of one folder.

    Arguments:
        folder: created; must not be there yet.
        dtype: of the tokens on disk.
        bos_id: of the token before each document.
        part: number that distinguishes the names of these chunks from those of other writers.

    Attributes:
        chunks: what was written.
        num_tokens: added so far.
        config: LitData's description of the chunks; None as long as there is none.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], bos_id: int, part: int = 0) -> None:
        folder.mkdir()
        self.folder = folder
        self.chunks: list[StoredChunk] = []
        self._lengths = array("q")
        self.config: dict[str, Any] | None = None
        self.num_tokens = 0
        self._dtype = dtype
        self._bos = np.array([bos_id], dtype=dtype)
        self._part = part
        self._full_slabs: list[npt.NDArray[Any]] = []
        self._slab = np.empty(_SLAB_TOKENS, dtype=dtype)
        self._filled = 0

    def add(self, ids: npt.NDArray[Any]) -> None:
        """Appends a document's ids `[num_tokens]`, without BOS."""
        self._append(self._bos)
        self._append(ids)
        self._lengths.append(len(ids) + 1)
        self.num_tokens += len(ids) + 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, its BOS included, int64 `[num_documents]`."""
        return np.array(self._lengths, dtype=np.int64)

    def close(self) -> None:
        """Writes the rest.

        Raises:
            DataError: the files do not hold what was added.
        """
        if self._filled:
            self._full_slabs.append(self._slab[: self._filled])
        self._write_chunk()
        written = sum(chunk.entry["dim"] for chunk in self.chunks)
        on_disk = sum((self.folder / chunk.entry["filename"]).stat().st_size for chunk in self.chunks)
        if written != self.num_tokens or on_disk != sum(chunk.entry["chunk_bytes"] for chunk in self.chunks):
            raise DataError(f"{self.folder}: {written} of {self.num_tokens} tokens were written; run again.")

    def _append(self, ids: npt.NDArray[Any]) -> None:
        done = 0
        while done < len(ids):
            count = min(len(ids) - done, len(self._slab) - self._filled)
            self._slab[self._filled : self._filled + count] = ids[done : done + count]
            self._filled += count
            done += count
            if self._filled == len(self._slab):
                self._full_slabs.append(self._slab)
                self._slab = np.empty_like(self._slab)
                self._filled = 0
                if len(self._full_slabs) == _CHUNK_SLABS:
                    self._write_chunk()

    def _write_chunk(self) -> None:
        if not self._full_slabs:
            return
        from litdata.streaming.item_loader import TokensLoader
        from litdata.streaming.writer import BinaryWriter

        writer = BinaryWriter(
            str(self.folder),
            chunk_size=_CHUNK_SLABS * len(self._slab),
            chunk_index=len(self.chunks),
            item_loader=TokensLoader(block_size=1),
        )
        writer._rank = self._part  # stands in the file's name; by default LitData's guess at the process's rank
        for number, slab in enumerate(self._full_slabs):
            writer.add_item(number, slab)
        self._full_slabs = []
        path = Path(writer.write_chunk(on_done=True))
        self.chunks.append(StoredChunk(writer._chunks_info[0], _checksum_of_synced(path)))
        self.config = {**writer.get_config(), "chunk_size": _CHUNK_SLABS * _SLAB_TOKENS}


def _checksum_of_synced(path: Path) -> str:
    """The file's checksum, once all of it is on the disk."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
