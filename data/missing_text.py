"""Records without the text field, told apart: a few among many, or none that has it."""

from __future__ import annotations

from collections.abc import Sequence

from gecko_lab.data.bad_input import MISSING_TEXT, BadInput, InputAccount
from gecko_lab.data.errors import suggestion
from gecko_lab.data.sources import SourceFile

_MAX_WAITING = 1000
_MAX_FIELDS = 50


class MissingText:
    """Counts the records of one file that have no text field.

    Where not one record has it, the account gets a single entry for the file that names the fields which are there:
    most likely the field is misnamed.

    Arguments:
        file: that is read.
        text_field: its name.
        account: where bad input is counted.
    """

    def __init__(self, file: SourceFile, text_field: str, account: InputAccount) -> None:
        self._file = file
        self._text_field = text_field
        self._account = account
        self._found = False
        self._waiting: list[BadInput] = []
        self._num_waiting = 0
        self._fields: dict[str, None] = {}

    def found(self) -> None:
        """A record has the field."""
        if not self._found:
            self._found = True
            for bad in self._waiting:
                self._account.skip(bad)
            if self._num_waiting > len(self._waiting):
                self._account.skipped.counts[MISSING_TEXT] += self._num_waiting - len(self._waiting)

    def add(self, fields: Sequence[str], *, line: int | None = None, row: int | None = None) -> None:
        """A record has other fields only.

        Raises:
            DataError: the account is strict.
        """
        bad = BadInput(self._file.label, MISSING_TEXT, f"no field {self._text_field!r}.", line, row)
        if self._account.strict:
            bad = BadInput(self._file.label, MISSING_TEXT, self._explanation(fields), line, row)
        if self._found or self._account.strict:
            self._account.skip(bad)
            return
        self._num_waiting += 1
        if len(self._waiting) < _MAX_WAITING:
            self._waiting.append(bad)
        if len(self._fields) < _MAX_FIELDS:
            self._fields.update(dict.fromkeys(fields))

    def add_all(self, fields: Sequence[str], num_records: int) -> None:
        """No record of the file has the field, as its description says.

        Raises:
            DataError: the account is strict.
        """
        self._account.skip(BadInput(self._file.label, MISSING_TEXT, self._explanation(fields)), num_records)

    def close(self) -> None:
        """The file has ended."""
        if not self._found and self._num_waiting:
            self.add_all(list(self._fields), self._num_waiting)

    def _explanation(self, fields: Sequence[str]) -> str:
        names = ", ".join(map(repr, fields[:_MAX_FIELDS])) or "(none)"
        return (
            f"no field {self._text_field!r}.{suggestion(self._text_field, fields)} "
            f"The fields are {names}; name the one with the text by text_field."
        )
