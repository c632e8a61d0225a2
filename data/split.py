"""Which documents are for training and which for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from gecko_lab.data.errors import DataError

TRAIN = "train"
VALIDATION = "validation"

_HASH_RANGE = 1 << 64


@dataclass
class DocumentSplit:
    """Assigns each document by a hash of the seed and its content.

    The same document goes to the same side whatever the order, number or names of files, and copies of one document
    never stand on both sides. About `validation_fraction` of the documents are for validation.

    A corpus so small that one side stays empty is split otherwise, once all documents were seen (`repaired`): the
    document with the lowest hash is the validation (or that with the highest the training); and where there is one
    document only, its end is the validation.

    Arguments:
        seed: of the split.
        validation_fraction: in [0, 1); 0 leaves the validation empty.

    Raises:
        DataError: the fraction is out of range.
    """

    seed: int
    validation_fraction: float
    _threshold: int = field(init=False)
    _cut: bool = field(default=False, init=False)
    _lowest: int = field(default=_HASH_RANGE, init=False)
    _highest: int = field(default=-1, init=False)

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise DataError(f"validation_fraction must be at least 0 and below 1, not {self.validation_fraction}.")
        self._threshold = int(self.validation_fraction * _HASH_RANGE)

    def parts(self, document: bytes) -> Iterator[tuple[str, bytes]]:
        """`(TRAIN or VALIDATION, text)`: the whole document on one side, or both its parts where it is cut."""
        if self._cut:
            end = _cut_position(document, 1 - self.validation_fraction)
            yield TRAIN, document[:end]
            yield VALIDATION, document[end:]
            return
        value = self._hash(document)
        self._lowest = min(self._lowest, value)
        self._highest = max(self._highest, value)
        yield (VALIDATION if value < self._threshold else TRAIN), document

    def repaired(self) -> DocumentSplit | None:
        """After all documents: the split to use instead because one side stayed empty; None where this one is good."""
        no_documents = self._highest < 0
        if (
            no_documents
            or self._cut
            or self.validation_fraction == 0
            or self._lowest < self._threshold <= self._highest
        ):
            return None
        better = DocumentSplit(self.seed, self.validation_fraction)
        if self._lowest == self._highest:
            better._cut = True
        else:
            better._threshold = self._lowest + 1 if self._lowest >= self._threshold else self._highest
        return better

    @property
    def rule(self) -> str:
        """How documents are assigned, in words, for the manifest."""
        if self._cut:
            return "the end of the only document is the validation"
        return "by hash of seed and document"

    def _hash(self, document: bytes) -> int:
        key = str(self.seed).encode()[:64]
        return int.from_bytes(hashlib.blake2b(document, digest_size=8, key=key).digest(), "little")


def _cut_position(document: bytes, fraction: float) -> int:
    """Where to cut: after a line's end if one is near, never within a UTF-8 character, with both parts non-empty."""
    target = min(max(round(len(document) * fraction), 1), max(len(document) - 1, 1))
    line_end = document.rfind(b"\n", max(target - 1000, 0), target)
    if line_end > 0:
        return line_end + 1
    while target > 1 and document[target : target + 1] and document[target] & 0xC0 == 0x80:
        target -= 1
    return target
