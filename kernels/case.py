"""How an operation presents itself to a benchmark: the `CASE` in `benchmark.py` of its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

Size = Literal["small", "full"]
Inputs = dict[str, Tensor]
"""Arguments by name, in the order of the call; gradients are taken of every floating one."""


class Shape(Protocol):
    """Sizes by name: a named tuple."""

    def _asdict(self) -> dict[str, Any]: ...


ShapeT = TypeVar("ShapeT", bound=Shape)


@dataclass(frozen=True)
class Contender(Generic[ShapeT]):
    """One way to compute an operation."""

    name: str
    run: Callable[[Inputs, ShapeT], Tensor]
    """The differentiable output, from inputs and their shape."""
    same: bool = True
    """Whether it computes the operation. If not it is a yardstick: something familiar of that size, unchecked."""


@dataclass(frozen=True)
class Problem(Generic[ShapeT]):
    """A shape at which ours is compared with those alternatives that are bearable there."""

    shape: ShapeT
    alternatives: tuple[Contender[ShapeT], ...]


@dataclass(frozen=True)
class Case(Generic[ShapeT]):
    """An operation to compare."""

    title: str
    shape_text: str
    """A format string over the fields of a shape."""
    inputs: Callable[[ShapeT, torch.dtype], Inputs]
    """Seeded draws on CPU."""
    reference: Contender[ShapeT]
    """The plain implementation: in float64 it says what is right."""
    ours: Contender[ShapeT]
    check_shape: ShapeT
    """Small and odd: here every contender is compared with the reference before any is timed."""
    problems: Mapping[Size, tuple[Problem[ShapeT], ...]]

    def contenders(self, problem: Problem[ShapeT]) -> tuple[Contender[ShapeT], ...]:
        """Ours, then the alternatives."""
        return (self.ours, *problem.alternatives)

    def describe(self, shape: ShapeT) -> str:
        """The shape in a few words."""
        return self.shape_text.format_map(shape._asdict())
