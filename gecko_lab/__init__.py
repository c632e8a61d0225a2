"""gecko-lab: Gecko and its relatives, part by part.

>>> import gecko_lab
>>> network = gecko_lab.build("gecko-15m", vocab_size=257)
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Imported on first use, so that the command line answers before torch is loaded.
_EXPORTS = {
    "LanguageModel": "gecko_lab.language_model",
    "Network": "gecko_lab.network",
    "RecallTask": "gecko_lab.recall_task",
    "TextDataModule": "gecko_lab.data.text",
    "build": "gecko_lab.families",
    "dump_reference": "gecko_lab.reference_io",
    "generate": "gecko_lab.generation",
    "load_reference": "gecko_lab.reference_io",
}
__all__ = [*_EXPORTS, "__version__"]  # noqa: PLE0604 — the names are strings


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
