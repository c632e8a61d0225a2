"""The order-2 byte model: what a language model must beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from gecko_lab.data.errors import DataError

_VALUES = 256
_START = 256  # stands before each document, twice
_SYMBOLS = _VALUES + 1
_SLAB_BYTES = 1 << 21


def order2_bits_per_byte(training: Iterable[bytes], validation: Iterable[bytes]) -> float:
    """Bits per byte of an order-2 byte model with add-one smoothing.

    The model gives byte b after the bytes a₂ a₁ of the same document the probability

        p(b | a₂, a₁) = (n(a₂, a₁, b) + 1) / (n(a₂, a₁) + 256)

    where n counts the training documents. Before a document stand two start symbols, so that its first byte is
    predicted from (start, start) and its second from (start, first byte). The result is the sum of -log₂ p over all
    bytes of the validation documents, divided by their number. Ends of documents are not predicted.

    Needs about 220 MB: a table of 257 · 257 · 256 counts (135 MB) and one slab of documents. A document is held whole.

    Arguments:
        training: documents that the counts are taken from.
        validation: documents that are evaluated.

    Raises:
        DataError: there is no byte to evaluate.
    """
    counts = np.zeros(_SYMBOLS * _SYMBOLS * _VALUES, dtype=np.int64)
    for trigrams in _trigrams(training):
        np.add.at(counts, trigrams, 1)
    context_counts = counts.reshape(-1, _VALUES).sum(axis=1)
    total_bits = 0.0
    num_bytes = 0
    for trigrams in _trigrams(validation):
        probability = (counts[trigrams] + 1.0) / (context_counts[trigrams // _VALUES] + float(_VALUES))
        total_bits -= float(np.log2(probability).sum())
        num_bytes += len(trigrams)
    if num_bytes == 0:
        raise DataError("the validation documents hold no bytes to evaluate the order-2 byte model on.")
    return total_bits / num_bytes


def _trigrams(documents: Iterable[bytes]) -> Iterator[npt.NDArray[np.int32]]:
    """Index (a₂ · 257 + a₁) · 256 + b of each byte b of the documents, int32 `[num_bytes]`, a slab at a time."""
    for slab in _slabs(documents):
        pieces: list[npt.NDArray[np.integer]] = []
        for document in slab:
            pieces.append(np.full(2, _START, dtype=np.int32))
            pieces.append(np.frombuffer(document, dtype=np.uint8))
        stream = np.concatenate(pieces).astype(np.int32)
        trigrams = (stream[:-2] * _SYMBOLS + stream[1:-1]) * _VALUES + stream[2:]
        yield trigrams[stream[2:] != _START]


def _slabs(documents: Iterable[bytes]) -> Iterator[list[bytes]]:
    slab: list[bytes] = []
    num_bytes = 0
    for document in documents:
        slab.append(document)
        num_bytes += len(document)
        if num_bytes >= _SLAB_BYTES:
            yield slab
            slab, num_bytes = [], 0
    if slab:
        yield slab
