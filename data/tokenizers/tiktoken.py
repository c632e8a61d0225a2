"""tiktoken: an encoding file, or a name whose file is already in tiktoken's cache."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gecko_lab.data.errors import DataError
from gecko_lab.data.tokenizers.base import Ids, Tokenizer, as_list, as_text, digest

# How cl100k_base cuts text before merging. An encoding file holds the merges only, so that a file is read with this
# pattern whatever its name.
_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)


class TiktokenTokenizer(Tokenizer):
    """Byte-level BPE by tiktoken. None of its encodings has a BOS: an id is added at the end of the vocabulary.

    Arguments:
        encoding: a `tiktoken.Encoding`.
        name: of the encoding, or the path of its file.
    """

    def __init__(self, encoding: Any, name: str) -> None:
        self._encoding = encoding
        self.name = name
        self.bos_id = encoding.max_token_value + 1
        self.vocab_size = self.bos_id + 1
        ranks = b"".join(
            len(token).to_bytes(4, "little") + token + rank.to_bytes(4, "little")
            for token, rank in sorted(encoding._mergeable_ranks.items())
        )
        self.identity = digest("tiktoken", ranks, encoding._pat_str, self.bos_id)

    @classmethod
    def from_file(cls, path: Path) -> TiktokenTokenizer:
        """From lines of `base64(token) rank`.

        Raises:
            DataError: the file holds something else, or has no token for some single byte (tiktoken would crash there).
        """
        import tiktoken

        ranks: dict[bytes, int] = {}
        # Not tiktoken.load: it keeps a copy of local files by path, and gives the old one when the file changes.
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
            except (ValueError, binascii.Error) as error:
                raise DataError(
                    f"{path}, line {number}: not a tiktoken encoding file; "
                    "every line must be a token in base64, a space, and its rank."
                ) from error
        missing = [value for value in range(256) if bytes([value]) not in ranks]
        if missing:
            raise DataError(f"{path} has no token for the single byte {missing[0]:#04x}.")
        if len(set(ranks.values())) != len(ranks) or min(ranks.values()) < 0:
            raise DataError(f"{path}: ranks must be different and at least 0.")
        return cls(tiktoken.Encoding(path.stem, pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens={}), str(path))

    @classmethod
    def from_name(cls, name: str) -> TiktokenTokenizer:
        """From tiktoken's cache (`TIKTOKEN_CACHE_DIR`), without network.

        Raises:
            DataError: the encoding's file is not in the cache.
        """
        import tiktoken

        def refuse(address: str) -> bytes:
            raise DataError(
                f"tokenizer {name!r}: tiktoken would download {address}, and gecko-lab downloads nothing by itself. "
                "Download that file and give its path, or fill tiktoken's cache (TIKTOKEN_CACHE_DIR)."
            )

        with mock.patch("tiktoken.load.read_file", refuse):
            return cls(tiktoken.get_encoding(name), name)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[Ids]:
        num_threads = self.num_threads or os.cpu_count() or 1
        ids = self._encoding.encode_ordinary_batch([as_text(text) for text in texts], num_threads=num_threads)
        return [np.asarray(document, dtype=np.int32) for document in ids]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer] | Tensor) -> str:
        text: str = self._encoding.decode([i for i in as_list(ids) if i != self.bos_id], errors="replace")
        return text

    def _bytes_of_ids(self) -> list[int]:
        counts = [0] * self.vocab_size
        for token, rank in self._encoding._mergeable_ranks.items():
            counts[rank] = len(token)
        return counts
