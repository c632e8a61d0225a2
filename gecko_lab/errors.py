"""Mistakes that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: the command line shows its message alone and exits with 2."""


class ConfigurationError(UserError):
    """A configuration that names something that is not there, or that cannot be."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest of the valid names, and the list of all of them where it is short."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    if len(names) <= 24:
        hint += f" (valid: {', '.join(names) or 'none'})"
    return hint
