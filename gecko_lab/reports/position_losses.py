"""`loss_by_position.json` in a run's folder: what the callback `LossByPosition` keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "loss_by_position.json"
FORMAT = "gecko-lab-loss-by-position"
FORMAT_VERSION = 1


def read_position_losses(folder: Path) -> dict[str, Any] | None:
    """The curves of the `last` and the `best` validation, or none where the file is not there or not whole.

    Each holds `step`, `loss` (the mean over all positions, nats per token), `positions` (first and last of each bin,
    from 1, both included) and `losses` (the mean over each bin; may be NaN or infinite).
    """
    try:
        content = json.loads((folder / FILE_NAME).read_text(encoding="utf-8"))
        if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
            return None
        return {name: _numbers(content[name]) for name in ("last", "best")}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _numbers(curve: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "step": int(curve["step"]),
        "loss": float(curve["loss"]),
        "positions": [(int(first), int(last)) for first, last in curve["positions"]],
        "losses": [float(loss) for loss in curve["losses"]],
    }
