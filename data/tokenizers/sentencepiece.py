"""A SentencePiece `.model`, read by the `sentencepiece` library."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from gecko_lab.data.errors import DataError
from gecko_lab.data.tokenizers.base import Ids, Tokenizer, as_list, as_text, digest


class SentencePieceTokenizer(Tokenizer):
    """Any SentencePiece model. BOS is the model's own, else an id added at the end of the vocabulary.

    Raises:
        DataError: the file is no SentencePiece model.
    """

    def __init__(self, path: Path) -> None:
        import sentencepiece

        model = path.read_bytes()
        self._processor: Any = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            num_pieces = self._processor.GetPieceSize()
            self._processor.IdToPiece(list(range(num_pieces)))  # a damaged one is found now rather than in use
        except (RuntimeError, ValueError) as error:  # ValueError: pieces that are not UTF-8
            raise DataError(f"{path} is not a SentencePiece model.") from error
        if num_pieces == 0:  # an empty file loads without complaint
            raise DataError(f"{path} is not a SentencePiece model (it has no pieces).")
        own_bos_id = self._processor.bos_id()
        self.name = str(path)
        self.bos_id = num_pieces if own_bos_id < 0 else own_bos_id
        self.vocab_size = max(num_pieces, self.bos_id + 1)
        self.identity = digest("sentencepiece", model, self.bos_id)

    def encode_batch(self, texts: Sequence[str | bytes]) -> list[Ids]:
        num_threads = self.num_threads or os.cpu_count() or 1
        ids = self._processor.Encode([as_text(text) for text in texts], out_type=int, num_threads=num_threads)
        return [np.asarray(document, dtype=np.int32) for document in ids]

    def decode(self, ids: Sequence[int] | npt.NDArray[np.integer] | Tensor) -> str:
        text: str = self._processor.Decode([i for i in as_list(ids) if i != self.bos_id])
        return text

    def _bytes_of_ids(self) -> list[int]:
        counts = [0] * self.vocab_size
        for i in range(self._processor.GetPieceSize()):
            if self._processor.IsByte(i):
                counts[i] = 1
            elif not (self._processor.IsControl(i) or self._processor.IsUnknown(i) or self._processor.IsUnused(i)):
                counts[i] = len(self._processor.IdToPiece(i).replace("\u2581", " ").encode("utf-8"))
        return counts
