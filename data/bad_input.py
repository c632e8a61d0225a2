"""The account of bad input: what was skipped or mended, where it stood and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gecko_lab.data.errors import DataError

# Reasons, as they stand in the manifest
BROKEN_COMPRESSION = "broken compression"
BROKEN_FILE = "broken file"
BROKEN_JSON = "broken JSON"
EMPTY_FILE = "empty file"
LONE_SURROGATES = "lone surrogates"
MISSING_TEXT = "missing text field"
NOT_TEXT = "text field is not text"
UNDECODABLE = "undecodable bytes"
UNREADABLE_FILE = "unreadable file"

_MAX_LISTED = 1000
_MAX_PRINTED = 5


@dataclass(frozen=True)
class BadInput:
    """One piece of bad input.

    Attributes:
        file: path or URL.
        reason: which kind it is, one of the few that are counted.
        message: what is wrong, in a sentence without the place.
        line: in the file, from 1; None where it is not a line.
        row: in the table, from 1; None where it is not a row.
    """

    file: str
    reason: str
    message: str
    line: int | None = None
    row: int | None = None

    def __str__(self) -> str:
        place = f", line {self.line}" if self.line is not None else f", row {self.row}" if self.row is not None else ""
        return f"{self.file}{place}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: `file`, `line` or `row` (or `line` null), `reason`, `message`."""
        place = {"row": self.row} if self.row is not None else {"line": self.line}
        return {"file": self.file, **place, "reason": self.reason, "message": self.message}


@dataclass
class Tally:
    """How often each reason came, and the first 1000 pieces of bad input in the order of reading."""

    counts: Counter[str] = field(default_factory=Counter)
    first: list[BadInput] = field(default_factory=list)

    def add(self, bad: BadInput, count: int = 1) -> None:
        """Counts a piece of bad input, which may stand for several records."""
        self.counts[bad.reason] += count
        if len(self.first) < _MAX_LISTED:
            self.first.append(bad)

    def extend(self, other: Tally) -> None:
        """Adds what came later."""
        self.counts.update(other.counts)
        self.first += other.first[: _MAX_LISTED - len(self.first)]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: `counts` by reason and `first`."""
        return {"counts": dict(sorted(self.counts.items())), "first": [bad.as_dict() for bad in self.first]}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Tally:
        """The inverse of `as_dict`."""
        return cls(Counter(content["counts"]), [BadInput(**bad) for bad in content["first"]])

    def summary(self) -> str:
        """The counts in words: `3 broken JSON, 1 empty file`."""
        return ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.counts.items()))


@dataclass
class InputAccount:
    """What a reader tells about its input.

    Arguments:
        strict: raise at the first bad input instead of counting it.

    Attributes:
        skipped: records and files (or ends of files) that gave no document.
        replaced: documents that were kept although some of their bytes or characters are not text.
        empty_documents: records without text.
    """

    strict: bool = False
    skipped: Tally = field(default_factory=Tally)
    replaced: Tally = field(default_factory=Tally)
    empty_documents: int = 0

    def skip(self, bad: BadInput, count: int = 1) -> None:
        """Counts what gives no document.

        Raises:
            DataError: strict.
        """
        self._refuse(bad)
        self.skipped.add(bad, count)

    def replace(self, bad: BadInput) -> None:
        """Counts a document that is kept although part of it is not text.

        Raises:
            DataError: strict.
        """
        self._refuse(bad)
        self.replaced.add(bad)

    def empty(self, file: str, *, line: int | None = None, row: int | None = None) -> None:
        """Counts a record without text.

        Raises:
            DataError: strict.
        """
        self._refuse(BadInput(file, "empty document", "the document is empty.", line, row))
        self.empty_documents += 1

    def _refuse(self, bad: BadInput) -> None:
        if self.strict:
            raise DataError(f"{bad} Preparing is strict and stops here; without strict this is counted and left out.")

    def extend(self, other: InputAccount) -> None:
        """Adds what came later."""
        self.skipped.extend(other.skipped)
        self.replaced.extend(other.replaced)
        self.empty_documents += other.empty_documents

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "empty_documents": self.empty_documents,
            "skipped": self.skipped.as_dict(),
            "replaced": self.replaced.as_dict(),
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> InputAccount:
        """The inverse of `as_dict`; other entries are left alone."""
        skipped, replaced = (Tally.from_dict(content[name]) for name in ("skipped", "replaced"))
        return cls(False, skipped, replaced, content["empty_documents"])

    def report(self) -> str:
        """A few lines for the user: counts by reason and the first few places; empty where nothing was bad."""
        lines = []
        if self.skipped.counts:
            lines.append(f"skipped    {self.skipped.summary()}")
            lines += _places(self.skipped)
        if self.replaced.counts:
            lines.append(f"kept       {self.replaced.summary()} (what is not text is replaced, or kept as bytes)")
            lines += _places(self.replaced)
        if self.empty_documents:
            lines.append(f"empty      {self.empty_documents:,} documents without text")
        return "\n".join(lines)


def _places(tally: Tally) -> list[str]:
    lines = [f"           {bad}" for bad in tally.first[:_MAX_PRINTED]]
    more = sum(tally.counts.values()) - len(lines)
    return [*lines, f"           ... and {more:,} more; the manifest lists the first 1,000"] if more > 0 else lines
