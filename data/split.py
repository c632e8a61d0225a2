"""Which documents are for training and which for validation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from gecko_lab.data.errors import DataError

TRAIN = "train"
VALIDATION = "validation"
SPLITS = (TRAIN, VALIDATION)

_HASH_RANGE = 1 << 64


@dataclass(frozen=True)
class HashRange:
    """The lowest and highest hash among documents; of no documents, lowest > highest."""

    lowest: int = _HASH_RANGE
    highest: int = -1

    def __or__(self, other: HashRange) -> HashRange:
        """The range of both sets of documents together."""
        return HashRange(min(self.lowest, other.lowest), max(self.highest, other.highest))


@dataclass(frozen=True)
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

    Attributes:
        threshold: documents whose hash is below it are for validation.
        cut: whether each document is cut instead, its end for the validation.

    Raises:
        DataError: the fraction is out of range.
    """

    seed: int
    validation_fraction: float
    threshold: int = field(default=-1, kw_only=True)
    cut: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise DataError(f"validation_fraction must be at least 0 and below 1, not {self.validation_fraction}.")
        if self.threshold < 0:
            object.__setattr__(self, "threshold", int(self.validation_fraction * _HASH_RANGE))

    def hash(self, document: bytes) -> int:
        """What decides a document's side, in [0, 2^64)."""
        key = str(self.seed).encode()[:64]
        return int.from_bytes(hashlib.blake2b(document, digest_size=8, key=key).digest(), "little")

    def parts(self, document: bytes, document_hash: int) -> Iterator[tuple[str, bytes]]:
        """`(TRAIN or VALIDATION, text)`: the whole document on one side, or both its parts where it is cut.

        Arguments:
            document: the text.
            document_hash: its `hash`.
        """
        if self.cut:
            end = _cut_position(document, 1 - self.validation_fraction)
            yield TRAIN, document[:end]
            yield VALIDATION, document[end:]
        else:
            yield (VALIDATION if document_hash < self.threshold else TRAIN), document

    def repaired(self, hashes: HashRange) -> DocumentSplit:
        """After all documents: the split to use, itself unless one side stayed empty.

        Arguments:
            hashes: of all documents.
        """
        no_documents = hashes.highest < 0
        if (
            no_documents
            or self.cut
            or self.validation_fraction == 0
            or hashes.lowest < self.threshold <= hashes.highest
        ):
            return self
        if hashes.lowest == hashes.highest:
            return replace(self, cut=True)
        return replace(self, threshold=hashes.lowest + 1 if hashes.lowest >= self.threshold else hashes.highest)

    def same_sides(self, other: DocumentSplit, hashes: HashRange) -> bool:
        """Whether documents with hashes in that range stand on the same sides under the other split of this seed."""
        if self.cut or other.cut:
            return self.cut == other.cut
        lower, upper = sorted((self.threshold, other.threshold))
        return lower == upper or upper <= hashes.lowest or hashes.highest < lower

    @property
    def rule(self) -> str:
        """How documents are assigned, in words, for the manifest."""
        if self.cut:
            return "the end of the only document is the validation"
        return "by hash of seed and document"


def _cut_position(document: bytes, fraction: float) -> int:
    """Where to cut: after a line's end if one is near, never within a UTF-8 character, with both parts non-empty."""
    target = min(max(round(len(document) * fraction), 1), max(len(document) - 1, 1))
    line_end = document.rfind(b"\n", max(target - 1000, 0), target)
    if line_end > 0:
        return line_end + 1
    while target > 1 and document[target : target + 1] and document[target] & 0xC0 == 0x80:
        target -= 1
    return target
