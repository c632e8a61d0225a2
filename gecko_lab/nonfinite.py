"""The search for the module that first makes a value that is not finite."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from gecko_lab.gradients import whole
from gecko_lab.slots import Slot

Phase = Literal["parameters", "forward", "loss", "backward", "parameter gradient"]


@dataclass(frozen=True)
class NonFinite:
    """Where a value first was not finite.

    Attributes:
        phase: `parameters`, a weight is not finite before any work; `forward`, an output is not while the inputs are;
            `loss`, every module's output is finite and the loss is not; `backward`, the gradient that a module passes
            back is not finite while what it received is; `parameter gradient`, only a weight's gradient is not.
        module: the innermost module's name, such as `layers.3.memory`; empty for code outside every module.
        module_class: its class.
        component: the innermost slot around it; the module itself where there is none.
        component_class: its class.
        layer: the layer's index; none outside the layers.
    """

    phase: Phase
    module: str
    module_class: str
    component: str
    component_class: str
    layer: int | None


def find_nonfinite(root: nn.Module, compute_loss: Callable[[], Tensor]) -> NonFinite | None:
    """The first non-finite value of a forward and a backward pass.

    Runs both, without `torch.compile`. Weights, gradients, modes and random numbers are afterwards what they were.
    Every rank of a sharded model must search together.

    Args:
        root: the model; names are relative to it.
        compute_loss: the forward pass; returns the scalar to go back from.

    Returns:
        None where everything is finite.
    """
    names = {module: name for name, module in root.named_modules()}
    broken = [name for name, p in root.named_parameters() if not _finite(p)]
    before = [(p, p.grad) for p in root.parameters()]
    devices = {p.device.index or 0 for p, _ in before if p.device.type == "cuda"}
    watch = _Watch(names)
    handles: list[Any] = []
    for module in list(names)[1:]:
        handles.append(module.register_forward_pre_hook(watch.enter, with_kwargs=True))
        handles.append(module.register_forward_hook(watch.leave, with_kwargs=True))
    try:
        with torch.random.fork_rng(devices=devices), torch.compiler.set_stance("force_eager"), torch.enable_grad():
            for parameter, _ in before:
                parameter.grad = None
            loss = compute_loss()
            watch.forward = False  # what activation checkpointing computes again has been seen
            loss.backward()
            gradients = [name for name, p in root.named_parameters() if p.grad is not None and not _finite(p.grad)]
    finally:
        for handle in handles:
            handle.remove()
        for parameter, gradient in before:
            parameter.grad = gradient
    if broken:
        return _place(root, "parameters", broken[0].rpartition(".")[0])
    if not _finite(loss):
        return _place(root, "loss", "") if watch.output is None else _place(root, "forward", watch.output)
    if watch.gradient is not None:
        return _place(root, "backward", watch.gradient)
    return _place(root, "parameter gradient", gradients[-1].rpartition(".")[0]) if gradients else None


class _Watch:
    """Hooks that remember the first module whose output, and whose gradient, is not finite.

    A module's inputs and outputs are replaced by views of themselves. The gradient of an input's view is what this
    module alone passes back, and that of an output's view all that reaches the module; autograd runs these hooks in the
    order of the backward pass, inner modules before those around them.
    """

    def __init__(self, names: dict[nn.Module, str]) -> None:
        self._names = names
        self._open: list[tuple[str, bool]] = []  # modules whose forward is running, and whether their inputs are finite
        self.forward = True
        self.output: str | None = None
        self.gradient: str | None = None

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Before a module's forward."""
        if not self.forward:
            return None
        name = self._names[module]
        self._open.append((name, _sound((*args, *kwargs.values()))))
        return self._watched((args, kwargs), name)

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """After a module's forward."""
        if not self.forward:
            return None
        name, fed_finite = self._open.pop()
        if self.output is None and fed_finite and not _sound(output):
            self.output = name
        return self._watched(output, self._open[-1][0] if self._open else "")

    def _watched(self, values: Any, culprit: str) -> Any:
        """The values as views; `culprit` is to blame where one of their gradients is the first that is not finite."""

        def look(gradient: Tensor) -> None:
            if self.gradient is None and not _finite(gradient):
                self.gradient = culprit

        def view(tensor: Tensor) -> Tensor:
            if not tensor.requires_grad:
                return tensor
            alias = tensor.view_as(tensor)
            alias.register_hook(look)
            return alias

        return pytree.tree_map_only(Tensor, view, values)


def _finite(tensor: Tensor) -> bool:
    return bool(whole(tensor.detach()).isfinite().all())


def _sound(values: Any) -> bool:
    """Whether a module's inputs or outputs are finite; inside a state -∞ may stand for the logarithm of nothing."""
    for value in values if type(values) is tuple else (values,):
        if isinstance(value, Tensor):
            if not _finite(value):
                return False
        elif any(_is_broken(leaf) for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)):
            return False
    return True


def _is_broken(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return not _finite(tensor)
    tensor = whole(tensor.detach())
    return bool((tensor.isnan() | tensor.isposinf()).any())


def _place(root: nn.Module, phase: Phase, name: str) -> NonFinite:
    component = name
    while component and not isinstance(root.get_submodule(component), Slot):
        component = component.rpartition(".")[0]
    component = component or name
    layer = re.search(r"(?:^|\.)layers\.(\d+)(?:\.|$)", name)
    return NonFinite(
        phase=phase,
        module=name,
        module_class=type(root.get_submodule(name)).__name__,
        component=component,
        component_class=type(root.get_submodule(component)).__name__,
        layer=None if layer is None else int(layer[1]),
    )
