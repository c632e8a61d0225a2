"""`gecko-lab bench`: what is fast beside its reference, checked, interleaved, in one run."""

from __future__ import annotations

import importlib
from typing import Any

# Imported on first use: a machine that only times kernels need not have what the other verbs take.
_VERBS = {
    "data": "gecko_lab.bench.data_command",
    "decode": "gecko_lab.bench.decode_command",
    "kernels": "gecko_lab.bench.kernels_command",
    "train": "gecko_lab.bench.train_command",
}
__all__ = [*_VERBS]  # noqa: PLE0604 — the names are strings


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
