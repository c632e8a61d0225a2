"""YAML as settings: plain keys and values, with one message for whatever is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from gecko_lab.errors import ConfigurationError

_MOST_VALUES = 100_000
# PyYAML lets through what its constructors stumble over: `!!bool maybe`, `2001-99-99`.
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys of a YAML file.

    Raises:
        ConfigurationError: if it is not YAML, or not keys and values.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    except _NOT_YAML as error:
        raise ConfigurationError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ConfigurationError(f"{path}: expected keys and values, found {type(settings).__name__}")
    _check_plain(settings, str(path))
    return settings


def read_yaml_value(text: str, where: str) -> Any:
    """The value that a text says, such as the `[1, 2]` of a flag.

    Args:
        text: in YAML.
        where: it stands, for the message.

    Raises:
        ConfigurationError: if it is not YAML, or cannot be a setting.
    """
    try:
        value = yaml.safe_load(text)
    except _NOT_YAML as error:
        raise ConfigurationError(f"{where}: {text!r} is not a YAML value") from error
    _check_plain(value, where)
    return value


def _check_plain(value: Any, where: str) -> None:
    """Refuse what cannot be a setting: dates, bytes, aliases that stand for millions of values or for themselves."""
    pending, count = [value], 0
    while pending:
        one = pending.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ConfigurationError(f"{where}: more than {_MOST_VALUES:,} values, its aliases written out")
        if isinstance(one, dict):
            pending += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            pending += one
        elif not isinstance(one, str | int | float | None):
            raise ConfigurationError(f"{where}: {str(one)!r} is a {type(one).__name__}; text needs quotes")
