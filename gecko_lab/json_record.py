"""A JSON file that says of which format and version it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError


def read_json_record(path: Path, *, of: str, format: str, version: int, remedy: str = "") -> dict[str, Any] | None:
    """What the file says; none where it is not there.

    Args:
        path: of the file.
        of: what it is the record of, in words.
        format: that it must say it is of.
        version: of the format, the one that can be read.
        remedy: how to go on where it cannot be read, for the message.

    Raises:
        ConfigurationError: it is damaged, of another program or of another version.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigurationError(f"{path} cannot be read ({reason}){f'; {remedy}' if remedy else ''}") from error
    if not isinstance(record, dict) or record.get("format") != format:
        raise ConfigurationError(f"{path} is not the record of a {of}; name another folder")
    if record.get("format_version") != version:
        raise ConfigurationError(f"{path} is of format {record.get('format_version')}, this version reads {version}")
    return record
