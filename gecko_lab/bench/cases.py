"""Which operations can be timed: the folders of `kernels` that have a `benchmark.py`."""

from __future__ import annotations

import importlib
import pkgutil
from importlib.util import find_spec
from typing import Any, Literal

from gecko_lab import kernels
from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.kernels.case import Case

Scale = Literal["small", "full", "7b"]
"""How large the problems are; those of `7b` stand in `large_cases`, for what matters there is a GPU's."""


def case_names() -> list[str]:
    """All of them, in alphabetical order."""
    folders = sorted(module.name for module in pkgutil.iter_modules(kernels.__path__) if module.ispkg)
    return [name for name in folders if find_spec(f"{kernels.__name__}.{name}.benchmark")]


def choose(only: str | None, size: Scale) -> list[str]:
    """The names in a comma-separated list, or all.

    Raises:
        ConfigurationError: names what is unknown.
    """
    names = case_names()
    if size == "7b":
        from gecko_lab.bench.large_cases import large_case_names  # imports every operation

        names = large_case_names()
    if only is None:
        return names
    asked = [name.strip() for name in only.split(",") if name.strip()]
    unknown = [name for name in asked if name not in names]
    if unknown or not asked:
        hints = [f"{name!r}{nearest(name, names).split(' (valid')[0]}" for name in unknown] or ["''"]
        raise ConfigurationError(f"--only: unknown {' and '.join(hints)} (valid: {', '.join(names)})")
    return [name for name in names if name in asked]


def load_case(name: str) -> Case[Any]:
    """The case of one folder."""
    case: Case[Any] = importlib.import_module(f"{kernels.__name__}.{name}.benchmark").CASE
    return case
