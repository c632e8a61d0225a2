"""Slots: the abstract parts of a network. Inheriting a slot is registering a component.

A component is configured by its constructor alone: what the surrounding layer decides comes positionally, what a
researcher may switch is keyword-only, typed and defaulted, and documented under `Args:` in the class docstring,
which is its help text.

A streaming component maps `(inputs, state, segments)` to `(output, state)`. `state=None` means that the stream begins
here; the state that comes back continues it. Its size does not depend on how much has been read, and any split of
a stream into pieces gives the outputs of the whole. `segments=None` means that the stream has had one document so far.

Some methods only show what a component does, for callbacks to measure. They change nothing and need not be written: by
default there is nothing to show.

Shapes: `B` batch, `L` timesteps, `D` model dim, `H` heads, `S` key dim and `V` value dim of one head, `C` chunk size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gecko_lab.state import Segments


class Gate(NamedTuple):
    """A gate as it can be watched from outside.

    Attributes:
        source: the module whose output `[B, L, ...]` opens and closes the gate.
        kind: `sigmoid`: the gate is σ(z) of that output; `silu`: it is z σ(z).
    """

    source: nn.Module
    kind: Literal["sigmoid", "silu"]


class Rotation(NamedTuple):
    """How queries and keys are turned.

    Attributes:
        cos: float64 `[L, S / 2]`.
        sin: float64 `[L, S / 2]`.
        num_heads: heads of the queries that are turned, the first ones.
    """

    cos: Tensor
    sin: Tensor
    num_heads: int


class Spectrum(NamedTuple):
    """The states of a moving average `h_t = q h_{t−1} + …`, `N` of them per channel.

    Attributes:
        forgotten: `1 − |q|` `[D, N]`, exact where it is small.
        angle: `arg q` `[D, N]` in radians; none for real states.
        power: `[D, N]`, mean square of what each state alone adds to the output when the input is white noise.
    """

    forgotten: Tensor
    angle: Tensor | None
    power: Tensor


class Slot(nn.Module, ABC):
    """A part of a network that can be switched by class name.

    Attributes:
        title: what the slot holds, in a few words.
        decayed: its own parameters that weight decay applies to, beside those of linear maps.
    """

    title: ClassVar[str] = ""
    decayed: ClassVar[tuple[str, ...]] = ()

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of the forward pass for one token, averaged over a stream of `length` tokens.

        A multiply-add counts two. Matrix products, recurrences and memory products count; elementwise functions,
        normalisation and softmax, which are bound by memory, do not.
        """
        return 0.0

    def state_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of the state of one stream after `length` tokens, which only full attention lets grow.

        Args:
            length: tokens read.
            itemsize: bytes of one activation (2 for bfloat16, 4 for float32).
        """
        return 0

    def list_gates(self) -> dict[str, Gate]:
        """The component's own gates, without those of its parts, by the names that its mathematics has for them."""
        return {}


class TimestepNormalization(Slot):
    """Normalises each timestep by statistics gathered along the stream.

    Construct with `(model_dim, *, ...)`.
    """

    title = "normalisation along time"

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None, segments: Segments | None = None) -> tuple[Tensor, Any]:
        """`x` `[B, L, D]` to `[B, L, D]`."""

    def horizons(self) -> dict[str, float]:
        """Timesteps that each statistic along the stream averages over; infinite where it is all of the document."""
        return {}


class MovingAverage(Slot):
    """Mixes each channel with its own past.

    Construct with `(model_dim, *, ...)`.
    """

    title = "moving average along time"

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None, segments: Segments | None = None) -> tuple[Tensor, Any]:
        """`x` `[B, L, D]` to `[B, L, D]`, the weighted skip of `x` included."""

    def spectrum(self) -> Spectrum | None:
        """How fast each state forgets and turns."""
        return None


class Attention(Slot):
    """Causal softmax attention with scale 1: exact recall of a bounded past.

    Positions are the layer's to apply, where it makes queries and keys: it asks `rotation` how.

    Construct with `(num_heads, key_dim, value_dim, chunk_size, *, ...)`, dims of one head.
    """

    title = "attention"

    @abstractmethod
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any = None, segments: Segments | None = None
    ) -> tuple[Tensor, Any]:
        """`q`, `k` `[B, L, H, S]`, turned as `rotation` says, and `v` `[B, L, H, V]` to `[B, L, H, V]`."""

    def rotation(self, length: int, state: Any, device: torch.device) -> Rotation | None:
        """How the queries and keys of the next `length` timesteps after a state are to be turned; none: not at all."""
        return None


class Memory(Slot):
    """A memory of fixed size of what attention has left behind.

    Construct with `(num_heads, key_dim, value_dim, chunk_size, *, ...)`, dims of one head.
    """

    title = "working memory"

    @abstractmethod
    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, state: Any = None, segments: Segments | None = None
    ) -> tuple[Tensor, Any]:
        """`q`, `k` `[B, L, H, S]` and `v` `[B, L, H, V]` to `[B, L, H, V]`."""

    def write_ratios(self, k: Tensor, state: Any = None, segments: Segments | None = None) -> Tensor | None:
        """How much of the memory each write replaces, ρ `[B, N, H, F]` of the `N` writes that `forward` would make.

        Args:
            k: keys `[B, L, H, S]`, as those of `forward`.
            state: what comes before them.
            segments: their documents.

        Returns:
            In the memory's dtype; not a number where the memory was empty before, when ρ is 1 whatever the keys are.
        """
        return None

    def contents(self, state: Any) -> Tensor | None:
        """All that has been written to the memory of a state, `[B, H, F, V]`."""
        return None


class FeedForward(Slot):
    """Mixes the channels of one timestep; keeps no state.

    Construct with `(model_dim, hidden_dim, *, ...)`.
    """

    title = "feed-forward"

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, L, D]` to `[B, L, D]`."""


@dataclass(frozen=True)
class Size:
    """The dimensions that a size name stands for.

    Attributes:
        num_layers: layers of the network.
        model_dim: features of the residual stream, `D`.
        num_heads: heads of attention and memory, `H`.
        z_dim: queries and keys of all heads together, `H·S`.
        value_dim: values of all heads together, `H·V`.
        hidden_dim: features inside the feed-forward.
        chunk_size: timesteps of a chunk, `C`.
    """

    num_layers: int
    model_dim: int
    num_heads: int
    z_dim: int
    value_dim: int
    hidden_dim: int
    chunk_size: int


class Layer(Slot):
    """One layer of the residual stream; composes the other slots.

    Construct with `(size, index, *, ...)`: the dimensions of the network and the layer's place in it, from 0.

    Attributes:
        sizes: the dimensions behind each size name.
    """

    title = "layer"
    sizes: ClassVar[Mapping[str, Size]]

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None, segments: Segments | None = None) -> tuple[Tensor, Any]:
        """`x` `[B, L, D]` to `[B, L, D]`."""

    @abstractmethod
    def final_norm(self) -> TimestepNormalization:
        """A new instance of the normalisation that belongs between the last such layer and the output projection."""

    def summands(self) -> dict[str, tuple[nn.Module, Gate | None]]:
        """`attention` and `memory` of a layer that adds their outputs, each with the gate that multiplies it before."""
        return {}
