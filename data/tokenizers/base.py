"""What every tokenizer offers to the rest of the package."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Ids = npt.NDArray[np.int32]


class Tokenizer(ABC):
    """Text to token ids and back.

    `encode` never adds BOS, and never turns text that merely spells a special token into that token: a document cannot
    forge the beginning of another.

    Attributes:
        name: `build_tokenizer(name)` gives the same in any working directory: `bytes`, an absolute path, an encoding.
        vocab_size: number of ids; every id that `encode` gives and `bos_id` are below it.
        bos_id: id that begins a document. A tokenizer without one gets an id added at the end of its vocabulary.
        identity: hash of everything that decides which ids a text becomes; equal for equal tokenizers on every machine.
        num_threads: that `encode_batch` may use; None for all cores.
    """

    name: str
    vocab_size: int
    bos_id: int
    identity: str
    num_threads: int | None = None

    @abstractmethod
    def encode_batch(self, texts: Sequence[str | bytes]) -> list[Ids]:
        """Ids of each text, int32 `[num_tokens]`, without BOS. Uses `num_threads` where the library can."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer] | Tensor) -> str:
        """Text of the ids. BOS and other special ids give no text; bytes that are not UTF-8 become U+FFFD."""

    @abstractmethod
    def _bytes_of_ids(self) -> list[int]:
        """Number of bytes of each id below `vocab_size`."""

    def use_one_thread(self) -> None:
        """Leave the other cores alone from now on: the processes beside this one use them."""
        self.num_threads = 1

    def encode(self, text: str | bytes) -> Ids:
        """Ids of one text, int32 `[num_tokens]`, without BOS."""
        return self.encode_batch([text])[0]

    @property
    def token_bytes(self) -> Tensor:
        """Number of bytes of text that each id stands for, int32 `[vocab_size]`; 0 for BOS, special and unknown ids.

        The sum over a document's tokens is the document's length in bytes, as far as the tokenizer is lossless (one
        that normalises text, or puts a space before it, counts the bytes of the text that it gives back).
        """
        return torch.tensor(self._bytes_of_ids(), dtype=torch.int32)


def as_bytes(text: str | bytes) -> bytes:
    """UTF-8 of the text; lone surrogates, which UTF-8 cannot hold, become `?`."""
    return text if isinstance(text, bytes) else text.encode("utf-8", errors="replace")


def as_text(text: str | bytes) -> str:
    """The text; bytes that are not UTF-8 become U+FFFD."""
    return as_bytes(text).decode("utf-8", errors="replace")


def as_list(ids: Sequence[int] | npt.NDArray[np.integer] | Tensor) -> list[int]:
    """The ids as plain integers."""
    return [int(i) for i in (ids.tolist() if isinstance(ids, (np.ndarray, Tensor)) else ids)]


def digest(kind: str, *parts: str | bytes | int) -> str:
    """Hash of the parts, each with its length, so that no two different lists of parts give the same bytes."""
    state = hashlib.blake2b(digest_size=16)
    for part in (kind, *parts):
        content = part if isinstance(part, bytes) else str(part).encode()
        state.update(len(content).to_bytes(8, "little") + content)
    return f"{kind}-{state.hexdigest()}"
