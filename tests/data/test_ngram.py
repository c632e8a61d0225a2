from __future__ import annotations

import math
import tracemalloc
from collections import Counter

import numpy as np
import pytest

from gecko_lab.data import ngram
from gecko_lab.data.errors import DataError
from gecko_lab.data.ngram import order2_bits_per_byte
from tests.data.corpora import words

TRAINING = [words(i).encode() for i in range(30)] + [b"", b"a", b"ab", bytes(range(256))]
VALIDATION = [words(i).encode() for i in range(30, 36)] + [b"", b"z", bytes(range(255, -1, -1))]


def by_dictionary(training: list[bytes], validation: list[bytes]) -> float:
    trigrams: Counter[tuple[int, ...]] = Counter()
    contexts: Counter[tuple[int, ...]] = Counter()
    for document in training:
        padded = [-1, -1, *document]
        for i in range(2, len(padded)):
            trigrams[tuple(padded[i - 2 : i + 1])] += 1
            contexts[tuple(padded[i - 2 : i])] += 1
    bits, count = 0.0, 0
    for document in validation:
        padded = [-1, -1, *document]
        for i in range(2, len(padded)):
            numerator = trigrams[tuple(padded[i - 2 : i + 1])] + 1
            bits -= math.log2(numerator / (contexts[tuple(padded[i - 2 : i])] + 256))
            count += 1
    return bits / count


@pytest.mark.parametrize("slab_bytes", [1, 1000, 1 << 21])
def test_order2_bits_per_byte(monkeypatch: pytest.MonkeyPatch, slab_bytes: int) -> None:
    monkeypatch.setattr(ngram, "_SLAB_BYTES", slab_bytes)
    found = order2_bits_per_byte(iter(TRAINING), iter(VALIDATION))
    assert found == pytest.approx(by_dictionary(TRAINING, VALIDATION), rel=1e-12)


def test_without_training_every_byte_takes_eight_bits() -> None:
    assert order2_bits_per_byte([], VALIDATION) == 8


def test_without_validation() -> None:
    with pytest.raises(DataError, match="no bytes"):
        order2_bits_per_byte(TRAINING, [b""])


def test_memory() -> None:
    documents = [np.random.default_rng(0).bytes(1 << 16)] * 80
    tracemalloc.start()
    order2_bits_per_byte(iter(documents), iter(documents))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300e6
