from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from gecko_lab.data.errors import DataError
from gecko_lab.data.packing import BestFitSequences, best_fit_decreasing
from gecko_lab.data.sequences import ContiguousSequences
from gecko_lab.data.stream import TokenStream
from tests.data.prepared import BOS, write_dataset


def numbered(lengths: list[int]) -> list[np.ndarray]:
    """Documents in which every token is there once: 1000, 1001, …"""
    ends = np.cumsum(lengths)
    return [np.concatenate([[BOS], 1000 + np.arange(e - n, e - 1)]) for e, n in zip(ends, lengths, strict=True)]


def stream_of(folder: Path, lengths: list[int], chunk_tokens: int = 64) -> TokenStream:
    return write_dataset(folder, numbered(lengths), chunk_tokens=chunk_tokens, dtype="int32").stream("train")


corpora = st.lists(st.integers(1, 40) | st.sampled_from([2, 7, 8, 9, 15, 16]), min_size=1, max_size=40)


@given(lengths=corpora, sequence_length=st.integers(2, 20), chunk_tokens=st.sampled_from([5, 64, 1000]))
@example(lengths=[8] * 8, sequence_length=8, chunk_tokens=64)
@example(lengths=[1] * 5, sequence_length=2, chunk_tokens=1000)
@example(lengths=[40], sequence_length=2, chunk_tokens=5)
def test_every_token_and_every_end_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], sequence_length: int, chunk_tokens: int
) -> None:
    rows = BestFitSequences(
        stream_of(tmp_path_factory.mktemp("packing") / "dataset", lengths, chunk_tokens), sequence_length, BOS
    )
    batch = rows.__getitems__(list(range(len(rows))))
    inputs, targets, mask = batch["tokens"][:, :-1], batch["tokens"][:, 1:], batch["mask"]
    assert (mask.dtype, mask.shape) == (torch.bool, inputs.shape)
    counted = Counter(targets[mask].tolist())
    documents = numbered(lengths)
    assert counted.pop(BOS) == len(documents), "the end of each document is a target once"
    assert counted == Counter(int(token) for document in documents for token in document[1:])
    # what a target is predicted from: the tokens before it in its document, at least back to the last BOS
    follows = {int(b): int(a) for d in documents for a, b in itertools.pairwise(d)}
    ends = {int(document[-1]) for document in documents if len(document) > 1}
    for row in range(len(rows)):
        for before, target in zip(inputs[row][mask[row]].tolist(), targets[row][mask[row]].tolist(), strict=True):
            assert (before in ends or before == BOS) if target == BOS else before in (follows[target], BOS)
    assert (batch["tokens"][:, 0] == BOS).all()
    for document in documents:
        if len(document) <= sequence_length:  # found whole, in one row
            wanted = torch.from_numpy(document)
            assert (
                len(document) == 1
                or wanted.tolist()
                in batch["tokens"]
                .unfold(1, len(document), 1)
                .tolist()[int((batch["tokens"] == document[1]).any(dim=1).nonzero())]
            )
    pieces = [max(1, 1 + -(-(n - sequence_length) // (sequence_length - 1))) for n in lengths]
    used = sum(lengths) + sum(pieces) - len(pieces)
    assert rows.padding == pytest.approx(1 - used / inputs.numel(), abs=1e-12)


@given(st.data())
def test_best_fit_decreasing(data: st.DataObject) -> None:
    capacity = data.draw(st.integers(1, 30))
    sizes = np.array(data.draw(st.lists(st.integers(1, capacity), max_size=60)), dtype=np.int64)
    rows = best_fit_decreasing(sizes, capacity)
    spaces: list[int] = []
    for size in sorted(sizes.tolist(), reverse=True):  # one after the other, as the method says
        fitting = [(space, row) for row, space in enumerate(spaces) if space >= size]
        row = min(fitting)[1] if fitting else len(spaces)
        spaces += [] if fitting else [capacity]
        spaces[row] -= size
    filled = np.bincount(rows, weights=sizes, minlength=len(spaces)) if len(sizes) else np.empty(0)
    assert sorted(capacity - filled) == sorted(spaces)


def test_documents_of_one_chunk_are_packed_together(tmp_path: Path) -> None:
    lengths = [10, 30, 20, 30, 3, 3, 70, 10, 9, 9]
    rows = BestFitSequences(stream_of(tmp_path / "dataset", lengths, chunk_tokens=60), 32, BOS)
    row_of = {}
    for row in range(len(rows)):
        for token in rows[row]["tokens"].tolist():
            row_of[token] = row
    begins = np.cumsum([0, *lengths[:-1]])
    chunk_of_row: dict[int, int] = {}
    for begin, length in zip(begins.tolist(), lengths, strict=True):
        for offset in range(length - 1):
            assert chunk_of_row.setdefault(row_of[1000 + begin + offset], begin // 60) == begin // 60
    counts = Counter(chunk_of_row.values())
    assert rows.samples_per_chunk.tolist() == [counts[chunk] for chunk in range(4)]
    assert len(rows) == sum(counts.values())


def test_best_fit_rows_are_always_the_same(tmp_path: Path) -> None:
    rows = BestFitSequences(stream_of(tmp_path / "dataset", [3, 2, 11, 4, 1]), 6, BOS)
    batch = rows.__getitems__([0, 1, 2, 3])
    assert batch["tokens"].tolist() == [
        [BOS, 1005, 1006, 1007, 1008, 1009, BOS],
        [BOS, 1010, 1011, 1012, 1013, 1014, BOS],
        [BOS, 1003, BOS, 1016, 1017, 1018, BOS],
        [BOS, 1000, 1001, BOS, BOS, BOS, BOS],
    ]
    assert batch["mask"].int().tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6, [1] * 6, [1, 1, 1, 1, 0, 0]]
    batch = rows.__getitems__([3, 0])
    again = pickle.loads(pickle.dumps(rows)).__getitems__([3, 0])
    assert all(torch.equal(batch[name], again[name]) for name in ("tokens", "samples", "mask"))
    assert batch["samples"].tolist() == [3, 0]


def test_best_fit_needs_room_for_a_bos_and_a_token(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="best_fit needs a sequence_length of at least 2"):
        BestFitSequences(stream_of(tmp_path / "dataset", [3]), 1, BOS)


def test_best_fit_wastes_little(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).lognormal(4, 1, 3000).astype(int) + 1
    rows = BestFitSequences(stream_of(tmp_path / "dataset", lengths.tolist(), chunk_tokens=100_000), 256, BOS)
    assert rows.padding < 0.005


@given(
    num_tokens=st.integers(0, 200),
    sequence_length=st.integers(1, 50) | st.just(300),
    chunk_tokens=st.sampled_from([1, 7, 64, 1000]),
)
def test_contiguous_cuts_the_stream_every_length_tokens(
    tmp_path_factory: pytest.TempPathFactory, num_tokens: int, sequence_length: int, chunk_tokens: int
) -> None:
    documents = numbered([num_tokens]) if num_tokens else []
    folder = tmp_path_factory.mktemp("contiguous") / "dataset"
    stream = write_dataset(folder, documents, chunk_tokens=chunk_tokens, dtype="int32").stream("train")
    sequences = ContiguousSequences(stream, sequence_length)
    assert len(sequences) == max(num_tokens - 1, 0) // sequence_length == sequences.samples_per_chunk.sum()
    tokens = stream.read(0, num_tokens)
    batch = sequences.__getitems__(list(range(len(sequences))))
    assert list(batch) == ["tokens", "samples"]
    assert batch["tokens"][:, 1:].flatten().tolist() == tokens[1 : len(sequences) * sequence_length + 1].tolist()
    assert batch["tokens"][:, :-1].flatten().tolist() == tokens[: len(sequences) * sequence_length].tolist()
    chunk = np.repeat(np.arange(len(sequences.samples_per_chunk)), sequences.samples_per_chunk)
    begins = np.arange(len(sequences)) * sequence_length
    assert (np.array(stream.chunk_starts)[chunk] <= begins).all()
    assert (begins < np.array(stream.chunk_starts)[chunk + 1]).all()
    with pytest.raises(IndexError):
        sequences[len(sequences)]
