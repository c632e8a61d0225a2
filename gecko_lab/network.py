"""A language model of layers: embedding, layers, final norm, output projection."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gecko_lab.recomputation import Recomputation, recomputed
from gecko_lab.slots import Layer, Size, Slot
from gecko_lab.state import Segments


class NetworkState(NamedTuple):
    """All that a stream leaves behind.

    Attributes:
        layers: each layer's state.
        final_norm: the final norm's state.
        segment: int64 `[B]`, documents begun so far; none while `document_starts` has not been given.
    """

    layers: tuple[Any, ...]
    final_norm: Any
    segment: Tensor | None


def resolve_size(name: str, layer_class: type[Layer]) -> Size:
    """The dimensions that a size name stands for in layers of one class.

    Raises:
        ValueError: for a name that the class does not have.
    """
    if name not in layer_class.sizes:
        raise ValueError(f"{layer_class.__name__} has no size {name!r}; its sizes are {', '.join(layer_class.sizes)}")
    return layer_class.sizes[name]


class Network(nn.Module):
    """`logits = W_out · final_norm(layers(embed(tokens)))`.

    Args:
        layer: makes a layer from `(size, index)`; several are cycled over the depth.
        size: the dimensions.
        vocab_size: tokens.
        tied_embedding: whether the output projection is the embedding's matrix.
        scale_embedding: multiply the embedding by √D.
        dropout: on the embedding.
        checkpoint_layers: recompute each layer in the backward pass instead of keeping what is inside it; "selective":
            but for what is slow for its size, such as the results of attention.
    """

    def __init__(
        self,
        layer: Callable[[Size, int], Layer] | Sequence[Callable[[Size, int], Layer]],
        size: Size,
        *,
        vocab_size: int,
        tied_embedding: bool = False,
        scale_embedding: bool = False,
        dropout: float = 0.0,
        checkpoint_layers: Recomputation = False,
    ) -> None:
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"the vocabulary must have at least one token, got vocab_size {vocab_size}")
        factories = list(layer) if isinstance(layer, Sequence) else [layer]
        self.size, self.vocab_size, self.dropout = size, vocab_size, dropout
        self.embedding_scale = math.sqrt(size.model_dim) if scale_embedding else 1.0
        self.checkpoint_layers = checkpoint_layers
        self.embedding = nn.Embedding(vocab_size, size.model_dim)
        layers = [factories[i % len(factories)](size, i) for i in range(size.num_layers)]
        self.layers = nn.ModuleList(layers)
        self.final_norm = layers[-1].final_norm()
        self.output = nn.Linear(size.model_dim, vocab_size, bias=False)
        self.tied_embedding = tied_embedding
        if tied_embedding:
            self.output.weight = self.embedding.weight
        self._reset_vocabulary()

    def _reset_vocabulary(self) -> None:
        """Truncated normal of standard deviation 1 / √D, as the authors draw embedding and output."""
        std = 1 / math.sqrt(self.size.model_dim)
        for weight in (self.embedding.weight,) if self.tied_embedding else (self.embedding.weight, self.output.weight):
            nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)

    def reset_parameters(self) -> None:
        """Draw every parameter anew, for instance after building on the meta device and `to_empty`."""
        if self.tied_embedding:  # `to_empty` has untied them
            self.output.weight = self.embedding.weight
        for module in self.modules():
            reset: Any = getattr(module, "reset_parameters", None)
            if module is not self and reset is not None:
                reset()
        self._reset_vocabulary()

    def forward(
        self, tokens: Tensor, state: NetworkState | None = None, document_starts: Tensor | None = None
    ) -> tuple[Tensor, NetworkState]:
        """Logits of the next token after each.

        Args:
            tokens: int64 `[B, L]`, any `L ≥ 1`.
            state: what an earlier piece of the stream left; none: the stream begins here.
            document_starts: bool `[B, L]`, where documents begin; none: nowhere in this piece.

        Returns:
            Logits `[B, L, vocab_size]` in at least float32, and the state after the last token.
        """
        hidden, state = self.hidden(tokens, state, document_starts)
        return self.logits(hidden), state

    def logits(self, hidden: Tensor) -> Tensor:
        """`[..., vocab_size]` in at least float32, of what `hidden` returns."""
        logits: Tensor = self.output(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def hidden(
        self, tokens: Tensor, state: NetworkState | None = None, document_starts: Tensor | None = None
    ) -> tuple[Tensor, NetworkState]:
        """What the output projection reads, `[B, L, D]`; otherwise as `forward`."""
        self._check(tokens, state, document_starts)
        layer_states = (None,) * len(self.layers) if state is None else state.layers
        before = None if state is None else state.segment
        if document_starts is None and before is not None:
            document_starts = torch.zeros_like(tokens, dtype=torch.bool)
        segments = None if document_starts is None else Segments.of(document_starts, before)

        x = self.embedding(tokens)
        if self.embedding_scale != 1.0:
            x = x * self.embedding_scale
        x = torch.dropout(x, self.dropout, self.training)
        states = []
        for layer, layer_state in zip(self.layers, layer_states, strict=True):
            if self.checkpoint_layers and torch.is_grad_enabled():
                x, layer_state = recomputed(layer, x, layer_state, segments, how=self.checkpoint_layers)
            else:
                x, layer_state = layer(x, layer_state, segments)
            states.append(layer_state)
        x, norm_state = self.final_norm(x, None if state is None else state.final_norm, segments)
        segment = None if segments is None else segments.ids[:, -1]
        return x, NetworkState(tuple(states), norm_state, segment)

    def _check(self, tokens: Tensor, state: NetworkState | None, document_starts: Tensor | None) -> None:
        if tokens.ndim != 2 or tokens.shape[1] < 1:
            raise ValueError(f"tokens must be [batch, length ≥ 1], got {list(tokens.shape)}")
        if document_starts is not None and (
            document_starts.shape != tokens.shape or document_starts.dtype != torch.bool
        ):
            raise ValueError(
                f"document_starts must be bool {list(tokens.shape)} as tokens, "
                f"got {document_starts.dtype} {list(document_starts.shape)}"
            )
        if state is not None and len(state.layers) != len(self.layers):
            raise ValueError(f"the state is of {len(state.layers)} layers, the network has {len(self.layers)}")

    def flops_per_token(self, length: int) -> float:
        """Floating-point operations of the forward pass for one token of a stream of `length` tokens (see `Slot`)."""
        layers = sum(layer.flops_per_token(length) for layer in self.layers if isinstance(layer, Slot))
        return layers + 2 * self.output.weight.numel()

    def state_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of the state of one stream after `length` tokens without documents."""
        parts = [*self.layers, self.final_norm]
        return sum(part.state_bytes(length, itemsize) for part in parts if isinstance(part, Slot))

    def num_parameters(self, *, embedding: bool = True) -> int:
        """Parameters, tied ones once; without those of the embedding where asked."""
        total = sum(parameter.numel() for parameter in self.parameters())
        return total if embedding else total - self.embedding.weight.numel()


def scale_size(size: Size, **changes: int | None) -> Size:
    """`size` with the dimensions that are given."""
    return dataclasses.replace(size, **{name: value for name, value in changes.items() if value is not None})
