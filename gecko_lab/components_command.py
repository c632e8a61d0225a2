"""`gecko-lab components`: the catalogue, to read."""

from __future__ import annotations

import json as json_format
import textwrap
from collections.abc import Mapping
from typing import Any

from gecko_lab.assembly import describe
from gecko_lab.cost import component_cost
from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.registry import SLOTS
from gecko_lab.registry import components as components_of
from gecko_lab.slots import Layer, Size, Slot


def components(name: str | None = None, *, size: str = "15m", length: int = 8192, json: bool = False) -> None:
    """List every slot of a network, what can fill it, the options, and the cost.

    Example: gecko-lab components AdaptiveWorkingMemory --size 7b

    Args:
        name: a component or a slot; everything by default.
        size: the size of the layer that costs are counted for.
        length: tokens of the stream that costs are counted for.
        json: print JSON.
    """
    chosen = [
        _describe(slot_name, slot, cls, size, length)
        for slot_name, slot in SLOTS.items()
        for cls in components_of(slot).values()
        if name in (None, slot_name, cls.__name__)
    ]
    if not chosen:
        names = [*SLOTS, *(other for slot in SLOTS.values() for other in components_of(slot))]
        raise ConfigurationError(f"unknown component or slot {name!r}{nearest(str(name), names)}")
    if json:
        print(json_format.dumps(chosen, indent=2))
    elif name is None:
        _print_overview(chosen, size, length)
    else:
        _print_details(chosen, size, length)


def _describe(slot_name: str, slot: type[Slot], cls: type[Slot], size: str, length: int) -> dict[str, Any]:
    gecko: Any = components_of(Layer)["GeckoLayer"]
    own: Mapping[str, Size] = getattr(cls, "sizes", gecko.sizes)
    if size not in own:
        raise ConfigurationError(f"--size: unknown size {size!r}{nearest(size, own)}")
    cost = component_cost(cls, slot, own[size], length)
    return {"slot": slot_name, **describe(cls), "cost": cost._asdict()}


def _print_overview(chosen: list[dict[str, Any]], size: str, length: int) -> None:
    slot = None
    for item in chosen:
        if item["slot"] != slot:
            slot = item["slot"]
            print(f"\n{slot}: {SLOTS[slot].title}")
        print(f"  {item['name']:<23}{_cost_line(item)}")
        print(textwrap.fill(item["summary"], 100, initial_indent="      ", subsequent_indent="      "))
        options = ", ".join(f"{option['name']}={_shown(option['default'])}" for option in item["options"])
        if options:
            print(textwrap.fill(options, 100, initial_indent="      options: ", subsequent_indent="        "))
    print(f"\nCosts: one layer of size {size} (--size), streams of {length:,} tokens (--length), bfloat16 activations.")
    print("In YAML every part of a layer can be null. `gecko-lab components NAME` explains the options of one.")


def _print_details(chosen: list[dict[str, Any]], size: str, length: int) -> None:
    for item in chosen:
        print(f"{item['name']} (slot {item['slot']}, {item['module']})")
        print(textwrap.fill(item["summary"], 100, initial_indent="  ", subsequent_indent="  "))
        print(f"  {_cost_line(item)} (one layer of size {size}, streams of {length:,} tokens)")
        for option in item["options"]:
            print(f"\n  {option['name']}: {option['type']} = {_shown(option['default'])}")
            if option["description"]:
                print(textwrap.fill(option["description"], 100, initial_indent="      ", subsequent_indent="      "))
        print()


def _cost_line(item: dict[str, Any]) -> str:
    cost = item["cost"]
    parts = {
        "parameters": cost["parameters"],
        "FLOP/token": cost["flops_per_token"],
        "bytes of state": cost["state_bytes"],
    }
    return ", ".join(f"{_short(value)} {what}" for what, value in parts.items())


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _short(value: float) -> str:
    """`1234567` as `1.23M`."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:g}"
