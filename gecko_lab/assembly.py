"""From what a user writes under `model.network` to a network.

A configuration is a tree of plain values. A part is named by class (`memory: AdditiveMemory`), by class and options
(`memory: {class_path: AdditiveMemory, init_args: {capacity: 2}}`), by options of the part that stands there already
(`memory: {capacity: 2}`), or left out (`memory: null`). `resolve` checks the tree and writes every default into it;
`assemble` builds the network of a resolved tree.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.network import Network, resolve_size, scale_size
from gecko_lab.recomputation import Recomputation
from gecko_lab.registry import Option, components, find, options, summary
from gecko_lab.slots import Layer, Size, Slot

Tree = dict[str, Any]


def _network(
    *,
    size: str = "15m",
    layer: Any = "GeckoLayer",
    vocab_size: int | None = None,
    num_layers: int | None = None,
    model_dim: int | None = None,
    tied_embedding: bool = False,
    scale_embedding: bool = False,
    dropout: float = 0.0,
    checkpoint_layers: Recomputation = False,
) -> None:
    """The keys of `model.network`.

    Args:
        size: dimensions by name, of the layer's class: tiny, 15m, 125m, 350m, 760m, 1.3b, 7b.
        layer: the layer, or a list of layers that are cycled over the depth.
        vocab_size: tokens; by default the tokenizer's.
        num_layers: layers; by default the size's.
        model_dim: features of the residual stream, D; by default the size's.
        tied_embedding: whether the output projection is the embedding's matrix.
        scale_embedding: multiply the embedding by √D.
        dropout: on the embedding.
        checkpoint_layers: recompute each layer in the backward pass instead of keeping what is inside it; "selective":
            but for what is slow for its size, such as the results of attention.
    """


NETWORK_OPTIONS = options(_network)
_DIMENSIONS = {"vocab_size", *(field.name for field in dataclasses.fields(Size))}


def merge(base: Any, change: Any) -> Any:
    """`base` with the changes of a later configuration; neither is touched.

    A change that names another class replaces the part, options and all; one that gives options alone changes those.
    """
    if isinstance(base, list) and isinstance(change, Mapping):
        return [merge(item, change) for item in base]
    if isinstance(base, Mapping) and isinstance(change, str) and base.get("class_path") == change:
        return copy.deepcopy(dict(base))
    if not isinstance(change, Mapping):
        return copy.deepcopy(change)
    if set(change) == {"init_args"}:
        change = change["init_args"] or {}
    if isinstance(base, str) and "class_path" not in change:
        return {"class_path": base, "init_args": merge({}, change)}
    if not isinstance(base, Mapping):
        return copy.deepcopy(dict(change))
    if "class_path" in base and "class_path" not in change:
        return {**base, "init_args": merge(base.get("init_args", {}), change)}
    if "class_path" in change and base.get("class_path") != change["class_path"]:
        return copy.deepcopy(dict(change))
    return {**copy.deepcopy(dict(base)), **{key: merge(base.get(key), value) for key, value in change.items()}}


def resolve(tree: Mapping[str, Any] | None, where: str = "model.network") -> Tree:
    """Check a tree and fill in every default.

    Args:
        tree: the keys of `model.network`.
        where: where the tree stands, for messages.

    Raises:
        ConfigurationError: for an unknown key, component, option or size, or a value of the wrong type, with its
            place and the nearest valid names.
    """
    if tree is not None and not isinstance(tree, Mapping):
        raise ConfigurationError(f"{where}: expected keys and values, got {tree!r}{nearest('', NETWORK_OPTIONS)}")
    values = _check_options(NETWORK_OPTIONS, tree or {}, where)
    several = isinstance(values["layer"], list)
    layers = values["layer"] if several else [values["layer"]]
    if not layers:
        raise ConfigurationError(f"{where}.layer: a list of layers must not be empty")
    default = find(Layer, NETWORK_OPTIONS["layer"].default, where)
    places = [f"{where}.layer[{i}]" if several else f"{where}.layer" for i in range(len(layers))]
    resolved = [_resolve_component(Layer, layer, default, place) for layer, place in zip(layers, places, strict=True)]
    for layer in resolved:
        cls: Any = find(Layer, layer["class_path"], where)
        if values["size"] not in cls.sizes:
            raise ConfigurationError(
                f"{where}.size: {cls.__name__} has no size {values['size']!r}{nearest(str(values['size']), cls.sizes)}"
            )
    return {**values, "layer": resolved if len(resolved) > 1 else resolved[0]}


def assemble(tree: Mapping[str, Any], where: str = "model.network") -> Network:
    """Build the network of a tree, resolved or not.

    Raises:
        ConfigurationError: as `resolve` does; if no vocabulary is given; if sizes clash.
    """
    values = resolve(tree, where)
    if values["vocab_size"] is None:
        raise ConfigurationError(f"{where}.vocab_size: how many tokens are there? Nothing else says so here")
    layers = values["layer"] if isinstance(values["layer"], list) else [values["layer"]]
    factories = [_factory(Layer, layer, where) for layer in layers]
    size = resolve_size(values["size"], factories[0].func)
    size = scale_size(size, num_layers=values["num_layers"], model_dim=values["model_dim"])
    keywords = ("vocab_size", "tied_embedding", "scale_embedding", "dropout", "checkpoint_layers")
    try:
        return Network(factories, size, **{name: values[name] for name in keywords})
    except ConfigurationError:
        raise
    except ValueError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def _factory(slot: type[Slot], value: Mapping[str, Any], where: str) -> Any:
    """A resolved component as a factory of modules: `functools.partial` of its class, parts included."""
    cls = find(slot, value["class_path"], where)
    keywords = {}
    for name, option in options(cls).items():
        argument = value["init_args"][name]
        if option.slot is not None and argument is not None:
            argument = _factory(option.slot, argument, f"{where}.{name}")
        keywords[name] = argument
    return functools.partial(cls, **keywords)


def _resolve_component(slot: type[Slot], value: Any, default: type[Slot] | None, where: str) -> Tree:
    if isinstance(value, str):
        value = {"class_path": value}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where}: expected a component's name or options, got {value!r}")
    if "class_path" not in value:
        if default is None:
            raise ConfigurationError(f"{where}: which component? Give class_path with these options: {dict(value)}")
        init_args = value["init_args"] if set(value) == {"init_args"} else value
        value = {"class_path": default.__name__, "init_args": init_args}
    surplus = set(value) - {"class_path", "init_args"}
    if surplus:
        raise ConfigurationError(
            f"{where}: {', '.join(sorted(surplus))} beside class_path; the options of a component stand in init_args"
        )
    cls = find(slot, str(value["class_path"]), where)
    known = options(cls)
    values = _check_options(known, value.get("init_args") or {}, where, cls.__name__)
    name = cls.__name__ if "." not in str(value["class_path"]) else str(value["class_path"])
    return {"class_path": name, "init_args": values}


def _check_options(known: Mapping[str, Option], given: Any, where: str, owner: str = "") -> Tree:
    """Every option with its value: those given, checked, and the others' defaults."""
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where}: expected options and values, got {given!r}")
    for key in given:
        if key not in known:
            of = f" of {owner}" if owner else ""
            raise ConfigurationError(f"{where}.{key}: unknown option{of}{nearest(str(key), known)}")
    values: Tree = {}
    for name, option in known.items():
        value, place = given.get(name, option.default), f"{where}.{name}"
        if value is inspect.Parameter.empty:
            raise ConfigurationError(f"{place}: is required")
        if option.slot is not None:
            values[name] = _resolve_slot(option, value, place)
        elif name not in given:
            values[name] = list(value) if isinstance(value, tuple) else value
        else:
            values[name] = _check_value(option, value, place)
    return values


def _resolve_slot(option: Option, value: Any, where: str) -> Tree | None:
    assert option.slot is not None
    if inspect.isclass(value) and issubclass(value, Slot):
        value = value.__name__
    if value is None:
        if not option.optional:
            raise ConfigurationError(f"{where}: cannot be null{nearest('', components(option.slot))}")
        return None
    default: Any = option.default if inspect.isclass(option.default) else None
    return _resolve_component(option.slot, value, default, where)


def _check_value(option: Option, value: Any, where: str) -> Any:
    """`value` as the option's type, by jsonargparse's rules (`"1e-3"` is a float)."""
    if option.annotation is Any:
        return value
    if value is None:  # jsonargparse takes it for any type
        if not option.optional:
            raise ConfigurationError(f"{where}: cannot be null; expected {_type_name(option.annotation)}")
        return None
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=option.annotation)
    try:
        checked = parser.parse_object({"value": value}, defaults=False)["value"]
    except Exception as error:
        raise ConfigurationError(f"{where}: expected {_type_name(option.annotation)}, got {value!r}") from error
    if option.name in _DIMENSIONS and isinstance(checked, int) and checked < 1:
        raise ConfigurationError(f"{where}: must be at least 1, got {checked}")
    if option.name.endswith("dropout") and not 0 <= checked <= 1:
        raise ConfigurationError(f"{where}: must lie in [0, 1], got {checked}")
    return list(checked) if isinstance(checked, tuple) else checked


def _type_name(annotation: Any) -> str:
    name = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
    return name.replace("typing.", "").replace(" | None", " or null")


def describe(cls: type[Slot]) -> dict[str, Any]:
    """A component's name, module, summary and options, ready to be printed or written as JSON."""

    def shown(option: Option) -> Any:
        return option.default.__name__ if inspect.isclass(option.default) else option.default

    return {
        "name": cls.__name__,
        "module": cls.__module__,
        "summary": summary(cls),
        "options": [
            {
                "name": option.name,
                "type": option.slot.title if option.slot else _type_name(option.annotation),
                "default": shown(option),
                "description": option.description,
            }
            for option in options(cls).values()
        ],
    }
