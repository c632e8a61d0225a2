"""Documents packed into rows without cutting those that fit (best-fit packing, arXiv 2404.10830)."""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gecko_lab.data.errors import DataError
from gecko_lab.data.sequences import Mask, Sequences, Tokens
from gecko_lab.data.stream import TokenStream

Integers = npt.NDArray[np.int64]


class BestFitSequences(Sequences):
    """Rows of whole documents.

    A document of at most L tokens, its BOS included, stands in one row. A longer one is cut: its first piece is its
    first L tokens, each piece after it BOS and the next L - 1. Pieces and whole documents that begin in the same chunk
    of the stream are packed together, by best fit decreasing; a row is filled up with BOS.

    As in the stream, what follows a document's last token is a BOS, of the next document in the row or of the padding,
    and it is a target that counts. Targets that do not: what follows a piece that is not its document's end, and what
    follows padding. So every token is a target that counts once, and every document's end is too.

    Arguments:
        stream: of tokens.
        sequence_length: L, at least 2.
        bos_id: the token that begins each document.

    Attributes:
        padding: share of the inputs that are padding.

    Raises:
        DataError: sequence_length is 1.
    """

    masked = True

    def __init__(self, stream: TokenStream, sequence_length: int, bos_id: int) -> None:
        if sequence_length < 2:
            raise DataError(
                "packing best_fit needs a sequence_length of at least 2, because each piece of a long document begins "
                "with a BOS of its own; raise sequence_length or use packing contiguous."
            )
        self.stream = stream
        self.sequence_length = sequence_length
        self.bos_id = bos_id
        pieces = cut(stream.lengths, sequence_length)
        regions = np.searchsorted(pieces.documents, np.asarray(stream.chunk_starts)).tolist()
        rows = [np.empty(0, dtype=np.int64)]
        counts = []
        self._count = 0
        for begin, end in itertools.pairwise(regions):
            packed = best_fit_decreasing(pieces.lengths[begin:end], sequence_length)
            rows.append(packed + self._count)
            counts.append(int(packed.max()) + 1 if len(packed) else 0)
            self._count += counts[-1]
        self.samples_per_chunk = np.array(counts, dtype=np.int64)
        row = np.concatenate(rows)
        order = np.argsort(row, kind="stable")  # within a row, pieces stand in the order of the stream
        self._starts = pieces.starts[order]
        self._lengths = pieces.lengths[order]
        self._continues = pieces.continues[order]
        self._ends = pieces.ends[order]
        self._row_begins = np.searchsorted(row[order], np.arange(self._count + 1))
        inputs = self._count * sequence_length
        self.padding = 1 - float(self._lengths.sum()) / inputs if inputs else 0.0

    def __len__(self) -> int:
        return self._count

    def fill(self, index: int, tokens: Tokens, mask: Mask | None) -> None:
        filled = 0
        for piece in range(int(self._row_begins[index]), int(self._row_begins[index + 1])):
            end = filled + int(self._lengths[piece])
            if self._continues[piece]:
                tokens[filled] = self.bos_id
                filled += 1
            self.stream.read_into(int(self._starts[piece]), tokens[filled:end])
            if mask is not None and not self._ends[piece]:
                mask[end - 1] = False
            filled = end
        tokens[filled:] = self.bos_id
        if mask is not None:
            mask[filled:] = False


class Pieces(NamedTuple):
    """Documents cut to at most L tokens, in the order of the stream, each `[num_pieces]`.

    Attributes:
        documents: int64, where in the stream the piece's document begins.
        starts: int64, where in the stream the piece's own tokens begin.
        lengths: int64, tokens in a row, an inserted BOS included.
        continues: bool, whether a BOS is inserted before the piece's tokens.
        ends: bool, whether the document ends with the piece.
    """

    documents: Integers
    starts: Integers
    lengths: Integers
    continues: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.bool_]


def cut(lengths: Integers, sequence_length: int) -> Pieces:
    """Cut documents to at most L tokens.

    Arguments:
        lengths: int64 `[num_documents]`, tokens of each with its BOS, back to back.
        sequence_length: L, at least 2.
    """
    begins = np.cumsum(lengths) - lengths
    counts = 1 + np.maximum(-(-(lengths - sequence_length) // (sequence_length - 1)), 0)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)  # of the piece in its document
    continues = number > 0
    offsets = number * (sequence_length - 1) + continues  # L, then L - 1 more each
    rest = lengths[document] - offsets + continues
    return Pieces(
        begins[document],
        begins[document] + offsets,
        np.minimum(rest, sequence_length),
        continues,
        number == counts[document] - 1,
    )


def best_fit_decreasing(sizes: Integers, capacity: int) -> Integers:
    """Which row each piece goes to: the largest first, each to the fullest row that still holds it.

    Pieces of one size are dealt out together: the fullest row that takes one is also the fullest that takes the next,
    until it is full. So the work is in the number of different sizes and of different spaces left, not of pieces.

    Arguments:
        sizes: int64 `[num_pieces]`, each from 1 to `capacity`.
        capacity: of a row.

    Returns:
        The rows, int64 `[num_pieces]`, numbered from 0 in the order in which they were begun.
    """
    order = np.argsort(-sizes, kind="stable")
    different, counts = np.unique(sizes, return_counts=True)
    dealt = np.empty(len(sizes), dtype=np.int64)  # the row of each piece, by decreasing size
    rows_of: dict[int, list[int]] = {}  # by the space that is left
    spaces: list[int] = []  # the keys of rows_of, in order
    num_rows = begin = 0
    for size, count in zip(different[::-1].tolist(), counts[::-1].tolist(), strict=True):
        while count:
            place = bisect_left(spaces, size)
            space = spaces[place] if place < len(spaces) else capacity
            each = min(space // size, count)
            if place < len(spaces):
                rows = rows_of[space]
                taken = rows[: count // each]
                del rows[: len(taken)]
                if not rows:
                    del rows_of[space], spaces[place]
            else:
                taken = list(range(num_rows, num_rows + count // each))
                num_rows += len(taken)
            number = each * len(taken)
            dealt[begin : begin + number] = np.repeat(np.array(taken, dtype=np.int64), each)
            begin, count = begin + number, count - number
            left = space - each * size
            if left not in rows_of:
                insort(spaces, left)
            rows_of.setdefault(left, []).extend(taken)
    result = np.empty(len(sizes), dtype=np.int64)
    result[order] = dealt
    return result
