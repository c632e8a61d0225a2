"""Hooks that look at the parts of every layer during one batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gecko_lab.microscope.gates import look_at_gate
from gecko_lab.microscope.memory import look_at_memory
from gecko_lab.microscope.moving_average import look_at_moving_average
from gecko_lab.microscope.seen import Seen, sample
from gecko_lab.microscope.share import look_at_share
from gecko_lab.microscope.timestep_norm import look_at_timestep_norm
from gecko_lab.slots import Layer, Memory, MovingAverage, Slot, TimestepNormalization
from gecko_lab.state import map_state

_MEMORY_INPUTS = ("q", "k", "v", "state", "segments")  # of `Memory.forward`


class Probe:
    """Looks at the layers of a network, once each, between `install` and `remove`.

    What the parts compute is looked at while they compute it, and so are parameters, which a sharded layer gathers for
    that time alone. Only forward passes with gradients count, and of each part the first. Results stay on the device.

    Args:
        network: any module with layers inside it.

    Attributes:
        calls: how often a hook has looked at something.
        hidden: layers that show nothing of what they compute, as `torch.compile` has made one thing of them.
    """

    def __init__(self, network: nn.Module) -> None:
        compiled = [part for part in network.modules() if part._compiled_call_impl is not None]
        inside = {part for whole in compiled for part in whole.modules()}
        self.calls = 0
        self.hidden: list[str] = []
        self._seen: dict[str, Seen] = {}
        self._handles: list[Any] = []
        self._layers = outermost_layers(network)
        self._visible: dict[str, Layer] = {}
        for name, layer in self._layers.items():
            if inside.isdisjoint(layer.modules()):
                self._visible[name] = layer
            else:
                self.hidden.append(name)

    def install(self) -> None:
        """Begin to look."""
        for name, layer in self._visible.items():
            for part_name, part in layer.named_modules():
                if isinstance(part, Slot):
                    self._watch_part(name, part_name, part)
            self._watch_summands(name, layer)

    def remove(self) -> None:
        """Leave no hook behind."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def look_at_parameters(self) -> None:
        """Look at what the parameters alone say of hidden layers; not where they are sharded."""
        for name in self.hidden:
            for part_name, part in self._layers[name].named_modules():
                if isinstance(part, MovingAverage):
                    self._keep(f"{name}/{part_name}", look_at_moving_average(part))
                elif isinstance(part, TimestepNormalization):
                    self._keep(f"{name}/{part_name}", look_at_timestep_norm(part))

    def results(self) -> dict[str, dict[str, Seen]]:
        """What was seen by layer, in their order, and part, such as `memory`, on the CPU."""
        results: dict[str, dict[str, Seen]] = {name: {} for name in self._layers}
        for place, seen in self._seen.items():
            layer, _, part = place.partition("/")
            results[layer][part] = map_state(Tensor.cpu, seen)
        return results

    def _watch_part(self, layer: str, name: str, part: Slot) -> None:
        place = f"{layer}/{name}"
        if isinstance(part, MovingAverage):
            self._hook(part, place, lambda inputs, output: look_at_moving_average(part))
        elif isinstance(part, TimestepNormalization):
            self._hook(part, place, lambda inputs, output: look_at_timestep_norm(part))
        elif isinstance(part, Memory):
            self._hook(part, place, lambda inputs, output: look_at_memory(part, inputs, output), _MEMORY_INPUTS)
        for gate, (source, _) in part.list_gates().items():
            gate_name = f"{name}.{gate}" if name else gate
            self._hook(source, f"{layer}/gates/{gate_name}", lambda inputs, output: look_at_gate(output))

    def _watch_summands(self, name: str, layer: Layer) -> None:
        """Keep samples of attention, memory and gate until the layer is through, and compare them."""
        summands = layer.summands()
        if summands.keys() != {"attention", "memory"}:
            return
        (attention, gate), (memory, _) = summands["attention"], summands["memory"]
        kept: dict[nn.Module, Tensor] = {}
        parts = [attention, memory, *([] if gate is None else [gate.source])]

        def keep(part: nn.Module, inputs: Any, output: Any) -> None:
            kept[part] = sample(output[0] if isinstance(output, tuple) else output)

        for part in parts:
            self._hook(part, name, functools.partial(keep, part))

        def compare(inputs: Any, output: Any) -> Seen | None:
            if len(kept) < len(parts):
                return None
            z = None if gate is None else (kept[gate.source], gate.kind)
            seen = look_at_share(kept[attention], z, kept[memory])
            kept.clear()
            return seen

        self._hook(layer, f"{name}/attention", compare)

    def _hook(
        self, module: nn.Module, place: str, look: Callable[[dict[str, Any], Any], Any], names: tuple[str, ...] = ()
    ) -> None:
        looked = False

        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            nonlocal looked
            if looked or not torch.is_grad_enabled():
                return
            looked = True
            self.calls += 1
            with torch.no_grad():
                self._keep(place, look(dict(zip(names, args, strict=False)) | kwargs, output))

        self._handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def _keep(self, place: str, seen: Seen | None) -> None:
        if seen is not None:
            self._seen[place] = seen


def outermost_layers(network: nn.Module) -> dict[str, Layer]:
    """The layers that are in no other layer, by name."""
    layers: dict[str, Layer] = {}
    inside: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, Layer) and module not in inside:
            layers[name] = module
            inside |= set(module.modules())
    return layers
