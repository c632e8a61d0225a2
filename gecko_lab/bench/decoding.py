"""Reading a stream token by token, or in pieces, from any position in it."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from gecko_lab.bench.gate import relative_error
from gecko_lab.bench.models import BenchModel, OurModel
from gecko_lab.bench.training import draw_tokens
from gecko_lab.decoding import Decoder, obstacle
from gecko_lab.state import state_bytes

_CHUNKS = 2
"""Chunks after which a layer's memory holds something and its attention sees a whole chunk before its own."""


_CHECKED = 4
"""Steps of a decoder that are compared: one at a chunk's beginning, the one that is captured, and replayed ones."""


class StateTooLarge(Exception):
    """The state of a stream at a position does not fit into memory."""


class WrongDecoder(Exception):
    """A decoder gives other logits than the model."""


def state_at(model: BenchModel, batch_size: int, position: int, chunk_size: int, device: torch.device) -> Any:
    """The state of a model, in evaluation mode, that has read `position` tokens of each stream.

    Ours reads a few chunks, and is then told that it stands further on: the size of its state does not depend on that.
    A cache of all keys and values is filled with random numbers.

    Args:
        model: in evaluation mode.
        batch_size: streams.
        position: a multiple of the chunk size.
        chunk_size: of the model's attentions and memories.
        device: the model's.

    Raises:
        StateTooLarge: with how large it is.
    """
    if not isinstance(model, OurModel):
        return _filled_cache(model, batch_size, position, device)
    dtype = model.output_weight.dtype
    needed = batch_size * model.network.state_bytes(position, dtype.itemsize)
    _require(needed, device)
    read = min(position, _CHUNKS * chunk_size)
    tokens = draw_tokens((batch_size, read), model.network.vocab_size, device)
    with torch.no_grad():
        _, state = model.step(tokens, None)
    return fast_forward(state, position - read)


def fast_forward(state: Any, ahead: int) -> Any:
    """A (nested) state whose streams have read so many tokens more, of what nobody says.

    `position` and `count` grow, and so do keys and values where all are kept, with random numbers.
    """
    if hasattr(state, "_asdict"):
        fields: dict[str, Any] = {name: fast_forward(value, ahead) for name, value in state._asdict().items()}
        if "keys" in fields and fields["keys"].shape[1] == fields["position"]:
            fields |= {name: _lengthened(fields[name], ahead) for name in ("keys", "values")}
        fields |= {name: fields[name] + ahead for name in ("position", "count") if name in fields}
        return type(state)(**fields)
    if isinstance(state, tuple):
        return tuple(fast_forward(one, ahead) for one in state)
    return state


def _lengthened(x: Tensor, ahead: int) -> Tensor:
    """`[B, M, ...]` to `[B, M + ahead, ...]`."""
    return torch.cat((x, torch.randn(x.shape[0], ahead, *x.shape[2:], dtype=x.dtype, device=x.device)), dim=1)


def _filled_cache(model: Any, batch_size: int, position: int, device: torch.device) -> Any:
    """The cache of a Llama of `transformers`."""
    of, dtype = model.config, model.output_weight.dtype
    heads = of.num_key_value_heads
    shape = (batch_size, heads, position, of.hidden_size // of.num_attention_heads)
    number = batch_size * heads * position * shape[-1] * of.num_hidden_layers * 2
    _require(2 * number * dtype.itemsize, device)  # a layer's is copied while it grows, and so is what attention reads
    cache = importlib.import_module("transformers").DynamicCache()
    for layer in range(of.num_hidden_layers):
        cache.update(*(torch.randn(shape, dtype=dtype, device=device) for _ in range(2)), layer)
    return cache


def _require(needed: int, device: torch.device) -> None:
    """Refuse what would take more than is free."""
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise StateTooLarge(f"its state takes {needed / 2**30:,.0f} GiB, {free / 2**30:,.0f} are free")


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


def stored_bytes(state: Any) -> int:
    """Bytes that a state holds, one of `transformers` too."""
    if hasattr(state, "layers") and not isinstance(state, tuple):
        return sum(state_bytes((layer.keys, layer.values)) for layer in state.layers)
    return state_bytes(state)


def branch(state: Any) -> Any:
    """A state to go on from that leaves the other one as it is; tensors are shared until they grow."""
    if state is None or isinstance(state, tuple):
        return state
    other = copy.copy(state)
    other.layers = [copy.copy(layer) for layer in state.layers]
    return other


def decoder_of(model: BenchModel, state: Any, number: int, device: torch.device) -> Decoder | None:
    """What decodes a model of ours on a GPU, `number` tokens from a state on; none where it decodes by itself.

    Raises:
        StateTooLarge: the state fits into memory, but not a second one of fixed shape beside it.
        WrongDecoder: its logits are not the model's own.
    """
    if device.type != "cuda" or not isinstance(model, OurModel) or obstacle(model.network, state) is not None:
        return None
    _require(stored_bytes(state), device)
    decoder = Decoder(model.network, state, num_tokens=max(number, _CHECKED))
    check_decoder(model, decoder, state, draw_tokens((state_rows(state), 1), model.network.vocab_size, device))
    return decoder


def state_rows(state: Any) -> int:
    """Streams that a state of ours is of."""
    return next((leaf.shape[0] for leaf in pytree.tree_leaves(state) if isinstance(leaf, Tensor)), 1)


def check_decoder(model: BenchModel, decoder: Decoder, state: Any, tokens: Tensor) -> None:
    """Refuse a decoder whose logits, from a state on, are not the model's own; the first tokens are int64 `[B, 1]`."""
    decoder.load(state)
    for _ in range(_CHECKED):
        with torch.no_grad():
            expected, state = model.step(tokens, state)
        error = relative_error(decoder(tokens)[:, -1].double(), expected.double())
        limit = 5e-2 if expected.dtype.itemsize < 4 else 1e-4  # other kernels, other roundings, over all layers
        if not error <= limit:
            raise WrongDecoder(f"WRONG by {error:.0e}: the logits of its decoder are not its own")
        tokens = expected.argmax(dim=-1, keepdim=True)


@torch.no_grad()
def decode_tokens(model: BenchModel, tokens: Tensor, state: Any, number: int, decoder: Decoder | None = None) -> Tensor:
    """Take the likeliest token, `number` times.

    Args:
        model: in evaluation mode.
        tokens: int64 `[B, 1]`, the first to read.
        state: before it; is left as it is.
        number: of tokens to read.
        decoder: of the model, to read with instead of the model itself; first the state is copied into it.

    Returns:
        Logits `[B, vocab_size]` after the last one.
    """
    if decoder is not None:
        decoder.load(state)
    state = branch(state)
    logits = torch.empty(0)
    for _ in range(number):
        if decoder is None:
            logits, state = model.step(tokens, state)
        else:
            logits = decoder(tokens)[:, -1]
        tokens = logits.argmax(dim=-1, keepdim=True)
    return logits


@torch.no_grad()
def read_in_pieces(model: BenchModel, tokens: Tensor, piece: int) -> tuple[Tensor, Any]:
    """Read tokens `[B, L]`, `piece` at a time; logits `[B, vocab_size]` after the last one, and the state."""
    state = None
    logits = torch.empty(0)
    for part in tokens.split(piece, dim=1):
        logits, state = model.step(part, state)
    return logits, state
