"""The error for a mistake in what the user asked of the data: one message, no traceback needed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from gecko_lab.errors import UserError


class DataError(UserError):
    """A user's mistake: a missing path, an unknown name, an option that cannot work with this data.

    The message names what was wrong, where it stands, and what is valid.
    """


def suggestion(name: str, valid: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` where one of `valid` is near to `name`, otherwise the empty string."""
    nearest = difflib.get_close_matches(name, list(valid), n=1)
    return f" Did you mean {nearest[0]!r}?" if nearest else ""


def require(name: str, value: int, minimum: int) -> None:
    """Refuse a value that is too small."""
    if value < minimum:
        raise DataError(f"{name} must be at least {minimum}, not {value}.")
