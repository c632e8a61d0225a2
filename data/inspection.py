"""What a prepared dataset holds: lengths of documents, where they begin, and whether all of it is still whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gecko_lab.data.dataset import TokenDataset
from gecko_lab.data.errors import DataError
from gecko_lab.data.stream import TokenStream

QUANTILES = (0.0, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
SEQUENCE_LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384, 32_768, 131_072, 1_048_576)

_SHOWN_POSITIONS = 8
_SCANNED_TOKENS = 1 << 20


def inspect_split(dataset: TokenDataset, split: str) -> dict[str, Any]:
    """Statistics of one split, ready for JSON; lengths are in tokens, with BOS.

    Returns:
        `quantiles` of the documents' lengths and their `mean`; `histogram`, entries `from`, `to` (exclusive),
        `documents` and `tokens`, a power of two each; `longer_than`, for common sequence lengths the shares of
        `documents` that are longer and of `tokens` in them; `bos_positions`, `found` at the beginning of the stream and
        `expected` by the lengths.

    Raises:
        DataError: part of the dataset is missing or damaged.
    """
    stream = dataset.stream(split)
    lengths = stream.lengths
    if len(lengths) == 0:
        return {
            "quantiles": {},
            "mean": None,
            "histogram": [],
            "longer_than": {},
            "bos_positions": {"found": [], "expected": []},
        }
    quantiles = np.quantile(lengths, QUANTILES, method="lower")
    scanned = min(len(stream), _SCANNED_TOKENS)
    found = np.flatnonzero(stream.read(0, scanned) == dataset.bos_id)
    starts = document_starts(lengths[: _SHOWN_POSITIONS + 1])
    expected = starts[starts < scanned][:_SHOWN_POSITIONS]
    return {
        "quantiles": {str(q): int(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
        "mean": round(float(lengths.mean()), 1),
        "histogram": _histogram(lengths),
        "longer_than": _longer_than(lengths),
        "bos_positions": {"found": found[:_SHOWN_POSITIONS].tolist(), "expected": expected.tolist()},
    }


def verify_split(dataset: TokenDataset, split: str) -> list[str]:
    """Reads all of a split: its chunks against their checksums, BOS against the lengths, ids against the vocabulary.

    Returns:
        What is wrong, a sentence each.
    """
    problems: list[str] = []
    try:
        stream = dataset.stream(split)
        starts = document_starts(stream.lengths)
    except DataError as error:
        return [str(error)]
    vocab_size = int(dataset.manifest["tokenizer"]["vocab_size"])
    counts = dataset.manifest["splits"][split]
    for name, number in (("documents", len(starts)), ("tokens", len(stream))):
        if counts[name] != number:
            problems.append(f"{split}: the manifest says {counts[name]} {name}, there are {number}.")
    for begin, end in zip(stream.chunk_starts[:-1], stream.chunk_starts[1:], strict=True):
        problems += _verify_chunk(stream, starts, begin, end, dataset.bos_id, vocab_size)
    return problems


def document_starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where in the stream each document of these lengths begins, int64 `[num_documents]`."""
    return np.cumsum(lengths) - lengths


def _verify_chunk(
    stream: TokenStream, starts: npt.NDArray[np.int64], begin: int, end: int, bos_id: int, vocab_size: int
) -> list[str]:
    try:
        tokens = stream.read(begin, end)
    except DataError as error:
        return [str(error)]
    expected = starts[np.searchsorted(starts, begin) : np.searchsorted(starts, end)]
    found = np.flatnonzero(tokens == bos_id) + begin
    problems = []
    if not np.array_equal(found, expected):
        differing = np.setxor1d(found, expected)
        problems.append(
            f"{stream.split}: {len(found)} documents begin in tokens {begin} to {end}, {len(expected)} should; the "
            f"first difference is at token {differing[0]}."
        )
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
        problems.append(f"{stream.split}: tokens {begin} to {end} hold ids beyond the vocabulary of {vocab_size}.")
    return problems


def _histogram(lengths: npt.NDArray[np.int64]) -> list[dict[str, int]]:
    exponents = np.floor(np.log2(lengths)).astype(np.int64)
    rows = []
    for exponent in range(int(exponents.min()), int(exponents.max()) + 1):
        inside = lengths[exponents == exponent]
        rows.append(
            {
                "from": 1 << exponent,
                "to": 2 << exponent,
                "documents": len(inside),
                "tokens": int(inside.sum()),
            }
        )
    return rows


def _longer_than(lengths: npt.NDArray[np.int64]) -> dict[str, dict[str, float]]:
    shares = {}
    for length in SEQUENCE_LENGTHS:
        longer = lengths[lengths > length]
        shares[str(length)] = {
            "documents": len(longer) / len(lengths),
            "tokens": int(longer.sum()) / int(lengths.sum()),
        }
    return shares
