from __future__ import annotations

import pytest

from gecko_lab.data.errors import DataError
from gecko_lab.data.split import TRAIN, VALIDATION, DocumentSplit

DOCUMENTS = [f"document {i}".encode() for i in range(2000)]


def sides(split: DocumentSplit, documents: list[bytes]) -> dict[bytes, str]:
    return {text: name for document in documents for name, text in split.parts(document) if text}


def test_fraction_and_determinism() -> None:
    found = sides(DocumentSplit(0, 0.1), DOCUMENTS)
    assert 140 < list(found.values()).count(VALIDATION) < 260
    assert sides(DocumentSplit(0, 0.1), DOCUMENTS[::-1]) == found, "the order of documents matters"
    assert sides(DocumentSplit(1, 0.1), DOCUMENTS) != found
    larger = sides(DocumentSplit(0, 0.2), DOCUMENTS)
    assert all(larger[d] == VALIDATION for d, name in found.items() if name == VALIDATION)
    assert DocumentSplit(0, 0.1).repaired() is None


@pytest.mark.parametrize("fraction", [0.001, 0.999])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_no_side_of_a_small_corpus_stays_empty(fraction: float, count: int) -> None:
    split = DocumentSplit(0, fraction)
    assert len(set(sides(split, DOCUMENTS[:count]).values())) == 1, "the test needs a split that fails"
    better = split.repaired()
    assert better is not None
    found = list(sides(better, DOCUMENTS[:count]).values())
    assert found.count(VALIDATION if fraction < 0.5 else TRAIN) == 1
    assert better.repaired() is None


@pytest.mark.parametrize("document", ["".join(f"line {i}\n" for i in range(500)), "🦎" * 1000, "ab"])
def test_single_document_is_cut(document: str) -> None:
    split = DocumentSplit(0, 0.1)
    assert set(sides(split, [document.encode()] * 2).values()) == {TRAIN}
    better = split.repaired()
    assert better is not None
    (_, first), (_, second) = better.parts(document.encode())
    assert (first.decode() + second.decode()) == document
    assert second
    assert first.endswith(b"\n") or "\n" not in document
    assert better.repaired() is None


def test_without_validation() -> None:
    split = DocumentSplit(0, 0.0)
    assert set(sides(split, DOCUMENTS).values()) == {TRAIN}
    assert split.repaired() is None


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(DataError, match="validation_fraction must be at least 0 and below 1"):
        DocumentSplit(0, fraction)
