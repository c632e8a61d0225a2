from __future__ import annotations

import functools
import operator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.data.errors import DataError
from gecko_lab.data.split import TRAIN, VALIDATION, DocumentSplit, HashRange

DOCUMENTS = [f"document {i}".encode() for i in range(2000)]


def sides(split: DocumentSplit, documents: list[bytes]) -> dict[bytes, str]:
    return {text: name for d in documents for name, text in split.parts(d, split.hash(d)) if text}


def hashes(split: DocumentSplit, documents: list[bytes]) -> HashRange:
    ranges = (HashRange(split.hash(document), split.hash(document)) for document in documents)
    return functools.reduce(operator.or_, ranges, HashRange())


def test_fraction_and_determinism() -> None:
    split = DocumentSplit(0, 0.1)
    found = sides(split, DOCUMENTS)
    assert 140 < list(found.values()).count(VALIDATION) < 260
    assert sides(split, DOCUMENTS[::-1]) == found, "the order of documents matters"
    assert sides(DocumentSplit(1, 0.1), DOCUMENTS) != found
    larger = sides(DocumentSplit(0, 0.2), DOCUMENTS)
    assert all(larger[d] == VALIDATION for d, name in found.items() if name == VALIDATION)
    assert split.repaired(hashes(split, DOCUMENTS)) == split


@pytest.mark.parametrize("fraction", [0.001, 0.999])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_side_of_a_small_corpus_stays_empty(fraction: float, count: int) -> None:
    split, documents = DocumentSplit(0, fraction), DOCUMENTS[:count]
    assert len(set(sides(split, documents).values())) == 1, "the test needs a split that fails"
    better = split.repaired(hashes(split, documents))
    found = list(sides(better, documents).values())
    assert found.count(VALIDATION if fraction < 0.5 else TRAIN) == 1
    assert better.repaired(hashes(better, documents)) == better


@pytest.mark.parametrize("document", ["".join(f"line {i}\n" for i in range(500)), "🦎" * 1000, "ab"])
def test_single_document_is_cut(document: str) -> None:
    split, documents = DocumentSplit(0, 0.1), [document.encode()] * 2
    assert set(sides(split, documents).values()) == {TRAIN}
    better = split.repaired(hashes(split, documents))
    assert better.cut
    (_, first), (_, second) = better.parts(documents[0], better.hash(documents[0]))
    assert (first.decode() + second.decode()) == document
    assert second
    assert first.endswith(b"\n") or "\n" not in document
    assert better.repaired(hashes(better, documents)) == better


def test_without_validation() -> None:
    split = DocumentSplit(0, 0.0)
    assert set(sides(split, DOCUMENTS).values()) == {TRAIN}
    assert split.repaired(hashes(split, DOCUMENTS)) == split


@given(
    documents=st.lists(st.binary(min_size=2, max_size=4), min_size=1, max_size=6),
    others=st.lists(st.binary(min_size=2, max_size=4), max_size=6),
    fraction=st.floats(0, 0.999),
)
def test_same_sides_tells_whether_documents_move(documents: list[bytes], others: list[bytes], fraction: float) -> None:
    """What allows to keep a part when the split is repaired for the sake of the whole."""
    split = DocumentSplit(0, fraction)
    better = split.repaired(hashes(split, documents + others))
    if better.same_sides(split, hashes(split, documents)):
        assert sides(better, documents) == sides(split, documents)
    elif not better.cut:
        assert sides(better, documents + others) != sides(split, documents + others)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(DataError, match="validation_fraction must be at least 0 and below 1"):
        DocumentSplit(0, fraction)
