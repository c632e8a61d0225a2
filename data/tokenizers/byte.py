"""Bytes as tokens: 256 ids and BOS."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gecko_lab.data.tokenizers.base import Ids, Tokenizer, as_bytes, as_list, digest

NUM_BYTE_VALUES = 256


class ByteTokenizer(Tokenizer):
    """Id = value of the byte, BOS = 256. Lossless for any bytes, UTF-8 or not."""

    def __init__(self) -> None:
        self.name = "bytes"
        self.vocab_size = NUM_BYTE_VALUES + 1
        self.bos_id = NUM_BYTE_VALUES
        self.identity = digest("bytes")

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[Ids]:
        return [np.frombuffer(as_bytes(text), dtype=np.uint8).astype(np.int32) for text in texts]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer] | Tensor) -> str:
        return bytes(i for i in as_list(ids) if i != self.bos_id).decode("utf-8", errors="replace")

    def _bytes_of_ids(self) -> list[int]:
        return [1] * NUM_BYTE_VALUES + [0]
