"""One split of a prepared dataset as a stream of tokens, read at any place."""

from __future__ import annotations

import itertools
import mmap
from bisect import bisect_right
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gecko_lab.data.errors import DataError
from gecko_lab.data.folders import DataFolder

INDEX_FILE = "index.json"
CHECKSUMS_FILE = "checksums.json"
LENGTHS_FILE = "lengths.bin"

_MAX_OPEN_CHUNKS = 128  # each holds a file descriptor


class TokenStream:
    """The tokens of a split in the order in which they were written, across its chunk files.

    The files are LitData's: `uint32` number of items, as many `uint32` offsets and one more, then the items back to
    back, which are tokens. A chunk's checksum is compared when a process opens it for the first time.

    Arguments:
        folder: of the dataset.
        split: its sub-folder.
        dtype: of the tokens in the files.

    Attributes:
        chunk_starts: where in the stream each chunk begins, and at last the stream's length.

    Raises:
        DataError: the index is missing or damaged, or a chunk is missing or of another size than the index says.
    """

    def __init__(self, folder: DataFolder, split: str, dtype: np.dtype[Any]) -> None:
        self.folder = folder
        self.split = split
        self._dtype = dtype
        self._chunks = self._read_index()
        self.chunk_starts: list[int] = [0, *itertools.accumulate(num_tokens for _, _, num_tokens in self._chunks)]
        self._opened: dict[int, npt.NDArray[Any]] = {}

    def __len__(self) -> int:
        return self.chunk_starts[-1]

    def read(self, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Tokens `start` to `stop`, int64 `[stop - start]`.

        Raises:
            IndexError: there are no such tokens.
            DataError: a chunk is missing or damaged.
        """
        tokens = np.empty(max(stop - start, 0), dtype=np.int64)
        self.read_into(start, tokens)
        return tokens

    def read_into(self, start: int, out: npt.NDArray[np.int64]) -> None:
        """Fill `out` with the tokens from `start` on; the errors are those of `read`."""
        if start < 0 or start + len(out) > len(self):
            raise IndexError(f"tokens {start} to {start + len(out)} of {len(self)}")
        filled = 0
        while filled < len(out):
            number = bisect_right(self.chunk_starts, start + filled) - 1
            chunk = self._opened.get(number)
            if chunk is None:
                chunk = self._open(number)
            begin = start + filled - self.chunk_starts[number]
            piece = chunk[begin : begin + len(out) - filled]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each document, its BOS included, int64 `[num_documents]`.

        Raises:
            DataError: the file is missing, or does not sum to the stream's length.
        """
        name = f"{self.split}/{LENGTHS_FILE}"
        content = self.folder.read(name)
        lengths = np.frombuffer(content[: len(content) // 8 * 8], dtype="<i8").astype(np.int64, copy=False)
        if len(content) % 8 or int(lengths.sum()) != len(self) or (lengths < 1).any():
            raise DataError(
                f"{self.folder.place(name)} does not hold the lengths of documents of {len(self)} tokens together; "
                "remove its folder and prepare the data again."
            )
        return lengths

    def documents(self) -> Iterator[npt.NDArray[np.int64]]:
        """The documents in the order of the stream, each `[num_tokens]` without its BOS."""
        start = 0
        for length in self.lengths.tolist():
            yield self.read(start + 1, start + length)
            start += length

    def _read_index(self) -> list[tuple[str, int, int]]:
        """File name, bytes and tokens of each chunk."""
        name = f"{self.split}/{INDEX_FILE}"
        index = self.folder.read_json(name)
        try:
            chunks = [(str(c["filename"]), int(c["chunk_bytes"]), int(c["dim"])) for c in index["chunks"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.folder.place(name)} is not an index of chunks ({error!r}); prepare the data again."
            ) from error
        for filename, num_bytes, _ in chunks:
            self.folder.check(f"{self.split}/{filename}", num_bytes)
        return chunks

    @cached_property
    def _checksums(self) -> dict[str, str]:
        checksums = self.folder.read_json(f"{self.split}/{CHECKSUMS_FILE}")
        return checksums if isinstance(checksums, dict) else {}

    def _open(self, number: int) -> npt.NDArray[Any]:
        """The tokens of a chunk, mapped."""
        filename, num_bytes, num_tokens = self._chunks[number]
        name = f"{self.split}/{filename}"
        path = self.folder.fetch(name, num_bytes, str(self._checksums.get(filename, "missing")))
        try:
            with path.open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); prepare the data again.") from error
        begin = num_bytes - num_tokens * self._dtype.itemsize  # behind the header
        if begin != 4 * (int(np.frombuffer(content, np.uint32, 1)[0]) + 2):
            raise DataError(f"{self.folder.place(name)} does not hold {num_tokens} tokens; prepare the data again.")
        while len(self._opened) >= _MAX_OPEN_CHUNKS:
            del self._opened[next(iter(self._opened))]
        self._opened[number] = np.frombuffer(content, self._dtype, num_tokens, begin)
        return self._opened[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}
