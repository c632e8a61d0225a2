"""The state that training carries from batch to batch: truncated back-propagation through time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gecko_lab.network import Network
from gecko_lab.state import detach_state


class CarriedState:
    """What the network left after a batch, for the rows of the next one; none at first.

    A checkpoint keeps its leaves, tensors and plain numbers, as a flat list: no class has to be unpickled. What they
    are leaves of is found out again from the network.
    """

    def __init__(self) -> None:
        self._state: Any = None
        self._leaves: list[Any] | None = None  # of a checkpoint, until the network runs

    def before(self, network: Network, inputs: Tensor, document_starts: Tensor) -> Any:
        """The state that the batch of inputs int64 `[B, L]` with starts bool `[B, L]` begins from."""
        if self._leaves is not None:
            structure = _structure(network, inputs[:, :1], document_starts[:, :1])
            leaves = [leaf.to(inputs.device) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
            self._state, self._leaves = pytree.tree_unflatten(leaves, structure), None
        return self._state

    def after(self, state: Any) -> None:
        """Keep the state that a batch left, without its gradient; none where it is not to be used."""
        self._state = detach_state(state)

    def leaves(self, gather: Callable[[Tensor], Tensor]) -> list[Any] | None:
        """What a checkpoint keeps; none where nothing is carried.

        Arguments:
            gather: the rows of all ranks, `[global batch, …]`, of a tensor `[B, …]`.
        """
        if self._leaves is None and self._state is None:
            return None
        leaves = pytree.tree_leaves(self._state) if self._leaves is None else self._leaves
        return [gather(leaf).clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def load(self, leaves: list[Any], start: int, stop: int) -> None:
        """Take the rows `start` to `stop` of the global batch from what a checkpoint kept."""
        self._leaves = [leaf[start:stop].clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def _structure(network: Network, token: Tensor, document_starts: Tensor) -> Any:
    """The tree of the network's states, from a forward pass over one token that leaves no trace."""
    training = network.training
    devices = [token.device] if token.device.type == "cuda" else []
    network.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
            _, state = network.hidden(token, document_starts=document_starts)
    finally:
        network.train(training)
    return pytree.tree_structure(state)
