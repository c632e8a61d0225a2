"""Decoding token by token with a state at fixed addresses: on a GPU one captured graph serves many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gecko_lab.kernels.working_memory import WorkingMemoryState
from gecko_lab.network import Network, NetworkState
from gecko_lab.slots import Attention, Memory

_WARM_UPS = 3
"""Runs before a capture, in which libraries set themselves up and kernels are compiled."""


class Decoder:
    """Reads a stream on, one token of each row a call, from the state that a prompt left.

    All tensors of the state stand at fixed addresses: keys and values in rings, the rest in copies. Steps within a
    chunk of the working memories are then the same operations at the same addresses, and a CUDA graph replays them.
    The steps that begin and end a chunk are computed operation by operation.

    Args:
        network: in evaluation mode.
        state: what its forward pass returned; is left as it is. No more of it is needed afterwards.
        num_tokens: steps to come, at most. Full attention needs to know.
        graph: whether to capture and replay; by default on a GPU.

    Raises:
        ValueError: the network trains, or `obstacle` says what is in the way.

    Example:
        >>> logits, state = network(prompt)
        >>> decoder = Decoder(network, state, num_tokens=100)
        >>> for _ in range(100):
        >>>     logits = decoder(logits[:, -1:].argmax(dim=-1))
    """

    def __init__(
        self, network: Network, state: NetworkState, *, num_tokens: int | None = None, graph: bool | None = None
    ) -> None:
        if network.training:
            raise ValueError("Decoder: the network is in training mode; call network.eval() first")
        if (why := obstacle(network, state)) is not None:
            raise ValueError(f"Decoder: {why}")
        device = network.output.weight.device
        if graph and device.type != "cuda":
            raise ValueError(f"Decoder: a CUDA graph needs a GPU, the network is on {device.type}")
        if num_tokens is None and any(getattr(a, "pattern", None) == "full" for a in _attentions(network)):
            raise ValueError("Decoder: full attention needs to know how many tokens are to come (num_tokens)")
        self.network = network
        self.graph = device.type == "cuda" if graph is None else graph
        self.num_tokens = num_tokens
        self._chunk_sizes = sorted({memory.chunk_size for memory in _chunked_memories(network)})
        self._replay: Callable[[], object] | None = None
        self._logits = torch.empty(0)
        self._captured: tuple[int, ...] | None = None
        self._set(state, None)
        leaves, self._structure = pytree.tree_flatten(self._fixed)
        self._addresses = {_address(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        batch_size = next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.ndim), 1)
        self._tokens = torch.zeros(batch_size, 1, dtype=torch.int64, device=device)

    @torch.no_grad()
    def _set(self, state: NetworkState, into: NetworkState | None) -> None:
        """Take a state over, into new tensors or into those there are."""
        held, new = (pytree.tree_leaves(one, is_leaf=_is_cache) for one in (into, state))
        for one, other in zip(held, new, strict=True) if into is not None else ():
            if isinstance(one, Tensor) and _describe(one) != _describe(other):
                raise ValueError(f"Decoder: a part of the state is {_describe(other)}, the decoder's {_describe(one)}")
        self.position = _position(state)
        self._last = None if self.num_tokens is None else self.position + self.num_tokens
        rings = _with_rings(self.network, state, self.num_tokens or 0, into)
        if into is None:
            self._fixed: NetworkState = pytree.tree_map_only(Tensor, _copied, rings, is_leaf=_is_ring)
            return
        for one, other in zip(held, new, strict=True):
            if isinstance(one, Tensor):
                one.copy_(other)

    def load(self, state: NetworkState) -> None:
        """Go on from another state, of the same shapes, at the same addresses: what has been captured stays valid.

        Args:
            state: of the same network and number of rows; with full attention at no later position than the first one.
        """
        if (why := obstacle(self.network, state)) is not None:
            raise ValueError(f"Decoder: {why}")
        self._set(state, self._fixed)

    def state_tensors(self) -> list[Tensor]:
        """All tensors of the state; they never move."""
        return [leaf for leaf in pytree.tree_leaves(self._fixed) if isinstance(leaf, Tensor)]

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits `[B, 1, vocab_size]` after the tokens, int64 `[B, 1]`, in at least float32."""
        if tokens.shape != self._tokens.shape:
            raise ValueError(f"Decoder: tokens must be {list(self._tokens.shape)}, got {list(tokens.shape)}")
        if self._last is not None and self.position >= self._last:
            raise ValueError(f"Decoder: it was made for {self.num_tokens} tokens (num_tokens), which have been read")
        self._tokens.copy_(tokens)
        kind = self._kind() if self.graph else None
        if kind is None:
            logits = self._step()
        else:
            if kind != self._captured or self._replay is None:
                self._replay = None  # frees the memory of the graph before
                self._logits = torch.empty(0)
                self._replay, self._logits = self._capture()
                self._captured = kind
            self._replay()
            logits = self._logits.clone()  # the next step writes there
        self.position += 1
        return logits

    def _kind(self) -> tuple[int, ...] | None:
        """Steps of one kind are the same operations; None: a step that begins or ends a chunk of a memory.

        A working memory reads nothing in a stream's first two chunks, which makes kinds of their own.
        """
        kind = []
        for chunk_size in self._chunk_sizes:
            chunk, offset = divmod(self.position, chunk_size)
            if offset in (0, chunk_size - 1):
                return None
            kind.append(min(chunk, 2))
        return tuple(kind)

    def _compute(self) -> tuple[Tensor, NetworkState]:
        """Logits and the state after the step; of the fixed state, the rings' slots for this timestep are written."""
        leaves = [self.position if isinstance(leaf, int) else leaf for leaf in pytree.tree_leaves(self._fixed)]
        logits, state = self.network(self._tokens, pytree.tree_unflatten(leaves, self._structure))
        return logits, state

    def _step(self) -> Tensor:
        """Compute a step and write the state after it over the one before; the position is the caller's to move."""
        logits, state = self._compute()
        new, structure = pytree.tree_flatten(state)
        if structure != self._structure:
            raise ValueError("Decoder: a step gives a state of another structure than the one before")
        copies = []
        for held, one in zip(pytree.tree_leaves(self._fixed), new, strict=True):
            if one is held or (isinstance(held, int) and one == self.position + 1):
                continue
            if _describe(held) != _describe(one) or not isinstance(held, Tensor):
                raise ValueError(f"Decoder: a step changes the state from {_describe(held)} to {_describe(one)}")
            # What is a view of a fixed tensor must be read before that one is written.
            copies.append((held, one.clone() if _address(one) in self._addresses else one))
        for held, one in copies:
            held.copy_(one)
        return logits

    def _capture(self) -> tuple[Callable[[], object], Tensor]:
        """A step as a CUDA graph: what replays it, and where it leaves its logits. The state stays where it is.

        The runs before it do not write the state back; the rings' slots that they write are those that the step writes.
        """
        device = self._tokens.device
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(device), _without_autocast_cache(device):
            before, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(before)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UPS):
                    self._compute()
            before.wait_stream(aside)
            # Other threads, such as a loader's that pins memory, may go on.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                logits = self._step()
        return graph.replay, logits


def obstacle(network: Network, state: NetworkState) -> str | None:
    """Why a state cannot stand at fixed addresses; None where it can."""
    if state.segment is not None:
        return "the stream has documents, which the fixed state of an attention does not know"
    for attention in _attentions(network):
        if not hasattr(attention, "ring"):
            return f"{type(attention).__name__} has no state of fixed shape (a method `ring`)"
    leaves = pytree.tree_leaves(state, is_leaf=lambda x: _is_cache(x) or isinstance(x, WorkingMemoryState))
    if sum(map(_is_cache, leaves)) != len(_attentions(network)):
        return "there are not as many states with keys and values as attentions"
    if sum(isinstance(leaf, WorkingMemoryState) for leaf in leaves) > len(_chunked_memories(network)):
        return "there is a working memory whose module does not say its chunk_size"
    for leaf in leaves:
        if not (leaf is None or isinstance(leaf, Tensor | WorkingMemoryState) or _is_cache(leaf)):
            return f"the state holds {leaf!r}, which may change from step to step"
    return None


def _attentions(network: Network) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, Attention)]


def _chunked_memories(network: Network) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, Memory) and hasattr(module, "chunk_size")]


def _is_cache(x: Any) -> bool:
    """Keys and values that grow, or a ring of them: a named tuple; components are not known here by class."""
    return isinstance(x, tuple) and {"keys", "values", "position"} <= set(getattr(x, "_fields", ()))


def _is_ring(x: Any) -> bool:
    return _is_cache(x) and isinstance(x.position, Tensor)


def _position(state: NetworkState) -> int:
    """Tokens that the stream has read; 0 where no part of the state depends on it."""
    return max((leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, int)), default=0)


def _with_rings(network: Network, state: NetworkState, num_tokens: int, into: NetworkState | None) -> NetworkState:
    """The state with a ring in place of every attention's keys and values, written into those there are."""
    leaves, structure = pytree.tree_flatten(state, is_leaf=_is_cache)
    places = [i for i, leaf in enumerate(leaves) if _is_cache(leaf)]
    held = [] if into is None else [x for x in pytree.tree_leaves(into, is_leaf=_is_ring) if _is_ring(x)]
    rings = held or [None] * len(places)
    for i, attention, ring in zip(places, _attentions(network), rings, strict=True):
        leaves[i] = attention.ring(leaves[i], num_tokens, ring)
    return pytree.tree_unflatten(leaves, structure)


def _copied(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _address(x: Tensor) -> int:
    """Of the memory that a tensor is a view of."""
    return x.untyped_storage().data_ptr()


def _describe(x: Any) -> str:
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else repr(x)


@contextmanager
def _without_autocast_cache(device: torch.device) -> Iterator[None]:
    """Weights that autocast has cast outlive no graph: inside, each use casts them anew."""
    enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
    with torch.autocast(device.type, dtype=dtype, enabled=enabled, cache_enabled=False):
        yield
