"""What a component costs: the one place where parameters, FLOPs and state are counted."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from gecko_lab.network import Network
from gecko_lab.slots import Attention, FeedForward, Layer, Memory, MovingAverage, Size, Slot, TimestepNormalization


class Cost(NamedTuple):
    """The cost of a component or a network.

    Attributes:
        parameters: how many there are.
        flops_per_token: of the forward pass, averaged over a stream (see `Slot.flops_per_token`).
        state_bytes: of one stream.
    """

    parameters: int
    flops_per_token: float
    state_bytes: int


def dimensions(slot: type[Slot], size: Size) -> tuple[Any, ...]:
    """What a layer of that size gives the constructor of a component of the slot."""
    heads = (size.num_heads, size.z_dim // size.num_heads, size.value_dim // size.num_heads, size.chunk_size)
    return {
        TimestepNormalization: (size.model_dim,),
        MovingAverage: (size.model_dim,),
        Attention: heads,
        Memory: heads,
        FeedForward: (size.model_dim, size.hidden_dim),
        Layer: (size, 0),
    }[slot]


def component_cost(component: type[Slot], slot: type[Slot], size: Size, length: int, itemsize: int = 2) -> Cost:
    """The cost of a component with its default options in a layer of a size.

    Args:
        component: the class.
        slot: its slot.
        size: the dimensions of the layer.
        length: tokens of a stream.
        itemsize: bytes of an activation.
    """
    with torch.device("meta"):
        module = component(*dimensions(slot, size))
    return _cost(module, length, itemsize)


def network_cost(network: Network, length: int, itemsize: int = 2) -> Cost:
    """The cost of a network; arguments as in `component_cost`."""
    return _cost(network, length, itemsize)


def _cost(module: Slot | Network, length: int, itemsize: int) -> Cost:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Cost(parameters, module.flops_per_token(length), module.state_bytes(length, itemsize))
