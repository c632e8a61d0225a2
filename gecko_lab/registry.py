"""The catalogue of components: every slot, what can fill it, and the options of each.

Inheriting a slot is registering. The catalogue imports every module under `components/` and every entry point of the
group `gecko_lab.components`, so that a package of one's own can add components:

    [project.entry-points."gecko_lab.components"]
    mine = "my_package.my_memory"
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import pkgutil
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.slots import Attention, FeedForward, Layer, Memory, MovingAverage, Slot, TimestepNormalization

SLOTS: dict[str, type[Slot]] = {
    "layer": Layer,
    "timestep_norm": TimestepNormalization,
    "moving_average": MovingAverage,
    "attention": Attention,
    "memory": Memory,
    "feed_forward": FeedForward,
}
ENTRY_POINTS = "gecko_lab.components"


@dataclass(frozen=True)
class Option:
    """One keyword of a component's constructor.

    Attributes:
        name: the keyword.
        annotation: its type.
        default: its default; a class for a slot.
        description: its line in the docstring.
        slot: the slot that it fills, if it takes a component.
        optional: whether it may be null.
    """

    name: str
    annotation: Any
    default: Any
    description: str
    slot: type[Slot] | None
    optional: bool


@functools.cache
def _import_all() -> None:
    package = importlib.import_module("gecko_lab.components")
    for module in pkgutil.walk_packages(package.__path__, "gecko_lab.components."):
        importlib.import_module(module.name)
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        _load(entry_point)


def _load(entry_point: importlib.metadata.EntryPoint) -> None:
    try:
        entry_point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"entry point {entry_point.name} = {entry_point.value} of group {ENTRY_POINTS}: "
            f"it cannot be imported ({error}); mend or uninstall that package"
        ) from error


def _final_subclasses(cls: type[Slot]) -> Iterator[type[Slot]]:
    for subclass in cls.__subclasses__():
        if not inspect.isabstract(subclass):
            yield subclass
        yield from _final_subclasses(subclass)


def components(slot: type[Slot]) -> dict[str, type[Slot]]:
    """Every component of a slot by class name.

    Raises:
        ConfigurationError: if two classes have the same name.
    """
    _import_all()
    found: dict[str, type[Slot]] = {}
    for cls in _final_subclasses(slot):
        other = found.setdefault(cls.__name__, cls)
        if other is not cls and (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigurationError(
                f"two components are called {cls.__name__}: {other.__module__}.{other.__qualname__} and "
                f"{cls.__module__}.{cls.__qualname__}; rename one"
            )
        found[cls.__name__] = cls  # a module that was loaded again
    return dict(sorted(found.items()))


def find(slot: type[Slot], name: str, where: str) -> type[Slot]:
    """The component of a slot by its class name, or by its full path.

    Args:
        slot: the slot.
        name: `AdaptiveWorkingMemory` or `gecko_lab.components.memory.adaptive.AdaptiveWorkingMemory`.
        where: the key that names it, for the message.

    Raises:
        ConfigurationError: if there is none, with the nearest names.
    """
    known = components(slot)
    if name in known:
        return known[name]
    module, _, class_name = name.rpartition(".")
    if module:
        try:
            cls = getattr(importlib.import_module(module), class_name)
        except (ImportError, AttributeError) as error:
            raise ConfigurationError(f"{where}: {name} cannot be imported ({error})") from None
        if not (inspect.isclass(cls) and issubclass(cls, slot)):
            raise ConfigurationError(f"{where}: {name} is not a component of the slot {slot.__name__}")
        return cls
    elsewhere = next((key for key, other in SLOTS.items() if name in components(other)), None)
    if elsewhere:
        raise ConfigurationError(f"{where}: {name} belongs to the slot {elsewhere}{nearest('', known)}")
    raise ConfigurationError(f"{where}: unknown component {name!r}{nearest(name, known)}")


def options(cls: Callable[..., Any]) -> dict[str, Option]:
    """The keywords of a component's (or a function's) signature, in order."""
    function = cls.__init__ if inspect.isclass(cls) else cls
    hints = typing.get_type_hints(function)
    described = {
        parameter.arg_name: " ".join((parameter.description or "").split())
        for owner in (reversed(cls.__mro__) if inspect.isclass(cls) else [cls])
        for parameter in _parsed(inspect.cleandoc(owner.__doc__ or "")).params
    }
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            annotation = hints.get(name, Any)
            slot, optional = _slot_of(annotation)
            default = parameter.default
            found[name] = Option(name, annotation, default, described.get(name, ""), slot, optional)
    return found


def summary(cls: type) -> str:
    """The first line of a component's docstring."""
    return _parsed(inspect.getdoc(cls) or "").short_description or ""


def _parsed(docstring: str) -> Any:
    """Its parts."""
    import docstring_parser  # which a machine that only runs networks may lack

    return docstring_parser.parse(docstring)


def _slot_of(annotation: Any) -> tuple[type[Slot] | None, bool]:
    """The slot whose factory an annotation allows, and whether it allows none."""
    choices = [annotation] if typing.get_origin(annotation) not in _UNIONS else typing.get_args(annotation)
    optional = type(None) in choices
    for choice in choices:
        arguments = typing.get_args(choice)
        result = arguments[-1] if arguments else None
        if inspect.isclass(result) and issubclass(result, Slot):
            return result, optional
    return None, optional


_UNIONS = (typing.Union, type(int | None))
