"""What can be learned: LightningModules by name."""

from __future__ import annotations

import importlib

from lightning import LightningModule

import gecko_lab
from gecko_lab.errors import ConfigurationError, nearest

MODULES = ("LanguageModel", "RecallTask")


def find_module(name: str) -> type[LightningModule]:
    """The LightningModule that a name or an import path stands for.

    Raises:
        ConfigurationError: there is none.
    """
    if name in MODULES:
        found: type[LightningModule] = getattr(gecko_lab, name)
        return found
    path, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(path), attribute)
    except (ImportError, AttributeError, ValueError):
        raise ConfigurationError(f"module: there is no {name!r}{nearest(name, MODULES)}") from None
    if not (isinstance(found, type) and issubclass(found, LightningModule)):
        raise ConfigurationError(f"module: {name} is not a LightningModule")
    return found
