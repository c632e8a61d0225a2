"""Whole networks read a stream in any pieces, with any documents, as they read it at once."""

from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from gecko_lab import Network
from gecko_lab.network import NetworkState
from gecko_lab.state import detach_state, state_bytes
from tests.components.catalogue import starts_at
from tests.components.test_streaming import Stream, streams
from tests.networks import NETWORKS, C, small, tokens_of
from tests.tolerances import FLOOR, TOLERANCE, compare

LIMITS = TOLERANCE[torch.float32]
every_network = pytest.mark.parametrize("name", NETWORKS)


def read(network: Network, tokens: Tensor, pieces: list[int], starts: Tensor | None) -> tuple[Tensor, NetworkState]:
    """Logits and state of a stream that is read in pieces; a piece in which no document begins is given none."""
    outputs: list[Tensor] = []
    state, begin = None, 0
    for length in pieces:
        piece = slice(begin, begin + length)
        some = None if starts is None or not starts[:, piece].any() else starts[:, piece]
        logits, state = network(tokens[:, piece], state, some)
        outputs.append(logits)
        begin += length
    assert state is not None
    return torch.cat(outputs, dim=1), state


def gradients(network: Network, logits: Tensor) -> dict[str, Tensor]:
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    network.zero_grad()
    (logits * weights).sum().backward()
    # a memory that has nothing to read yet gives none to what it would write
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in network.named_parameters()}


@every_network
@given(stream=streams())
@example(stream=Stream([1, C - 1, C, C + 1, 2 * C + 3], None))
@example(stream=Stream([1, C - 1, C, C + 1, 2 * C + 3], ([0, 3, C, 2 * C + 1], [C + 2, 3 * C + 2])))
@example(stream=Stream([2 * C, 2 * C, 2 * C], ([5 * C], [])))
@settings(max_examples=10)
def test_streamed_logits_and_gradients_are_those_of_the_whole(name: str, stream: Stream) -> None:
    """In training mode, the gradient flowing through the state, document starts left out where there are none."""
    network, length = small(name), sum(stream.pieces)
    tokens, starts = tokens_of(length), stream.document_starts()
    streamed, _ = read(network, tokens, stream.pieces, starts)
    streamed_gradients = gradients(network, streamed)
    whole, _ = network(tokens, document_starts=starts)
    compare({"logits": streamed}, {"logits": whole}, LIMITS.forward)
    compare(streamed_gradients, gradients(network, whole), LIMITS.gradient, FLOOR)


@every_network
@given(starts=st.tuples(*[st.lists(st.integers(2 * C + 1, 4 * C), max_size=2)] * 2))
@settings(max_examples=5)
def test_document_starts_may_be_none_first(name: str, starts: tuple[list[int], list[int]]) -> None:
    """None and all-false mean the same, before the first given ones as after."""
    network, tokens = small(name), tokens_of(4 * C + 1)
    given_later = starts_at(4 * C + 1, *starts)
    expected, _ = network(tokens, document_starts=given_later)
    first, state = network(tokens[:, : 2 * C + 1])
    assert state.segment is None
    rest, state = network(tokens[:, 2 * C + 1 :], state, given_later[:, 2 * C + 1 :])
    assert state.segment.tolist() == [len(set(row)) for row in starts]
    compare({"logits": torch.cat((first, rest), dim=1)}, {"logits": expected}, LIMITS.forward)


@every_network
def test_document_starts_may_be_none_later(name: str) -> None:
    network, tokens, cut = small(name), tokens_of(5 * C), C + 2
    starts = starts_at(5 * C, [0, 3], [C + 1])
    expected, _ = network(tokens, document_starts=starts)
    first, state = network(tokens[:, :cut], document_starts=starts[:, :cut])
    rest, state = network(tokens[:, cut:], state)
    compare({"logits": torch.cat((first, rest), dim=1)}, {"logits": expected}, LIMITS.forward)
    assert state.segment.tolist() == [2, 1]


@every_network
def test_no_document_starts_and_false_ones_are_the_same(name: str) -> None:
    network, tokens = small(name), tokens_of(3 * C + 1)
    none, _ = network(tokens)
    false, _ = network(tokens, document_starts=torch.zeros_like(tokens, dtype=torch.bool))
    compare({"logits": false}, {"logits": none}, LIMITS.forward)


@every_network
@given(data=st.data())
@settings(max_examples=8)
def test_no_leak_between_documents(name: str, data: st.DataObject) -> None:
    """A token's logits do not change, bit for bit, when another document's content does."""
    network, length = small(name), 5 * C + 1
    begins = sorted({0, *data.draw(st.lists(st.integers(1, length - 1), min_size=1, max_size=4))})
    changed = data.draw(st.integers(0, len(begins) - 1))
    cut = data.draw(st.integers(1, length))
    pieces = [cut, length - cut] if cut < length else [length]
    begin, end = begins[changed], [*begins, length][changed + 1]
    tokens, starts = tokens_of(length), starts_at(length, begins, begins)
    other = tokens.clone()
    other[:, begin:end] = tokens_of(length, seed=1)[:, begin:end]
    with torch.no_grad():
        expected, _ = read(network, tokens, pieces, starts)
        actual, _ = read(network, other, pieces, starts)
    assert torch.equal(actual[:, :begin], expected[:, :begin])
    assert torch.equal(actual[:, end:], expected[:, end:])


@every_network
def test_no_gradient_between_documents(name: str) -> None:
    """Through the embedding: tokens that only the other document has get none."""
    network = small(name, tied_embedding=False)
    tokens = torch.tensor([[1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 7, 8]])
    logits, _ = network(tokens, document_starts=starts_at(16, [6, 12]))
    logits[:, 6:12].square().sum().backward()
    gradient = network.embedding.weight.grad
    assert gradient is not None
    assert gradient.any(dim=1).nonzero().flatten().tolist() == [4, 5, 6]


@every_network
def test_detached_states_cut_the_gradient(name: str) -> None:
    network = small(name, tied_embedding=False)
    first, second = torch.tensor([[1, 2, 3, 1, 2, 3, 1, 2, 3]]), torch.tensor([[4, 5, 6, 4]])

    def reached(cut: bool) -> list[int]:
        _, state = network(first)
        logits, _ = network(second, detach_state(state) if cut else state)
        (gradient,) = torch.autograd.grad(logits.square().sum(), network.embedding.weight)
        return gradient.any(dim=1).nonzero().flatten().tolist()

    assert reached(cut=False) == [1, 2, 3, 4, 5, 6]
    assert reached(cut=True) == [4, 5, 6]


@every_network
def test_state_bytes(name: str) -> None:
    network = small(name)
    for length in (1, C, 2 * C + 1, 5 * C + 3):
        with torch.no_grad():
            _, state = network(tokens_of(length, batch=1))
        assert state_bytes(state) == network.state_bytes(length, itemsize=4), length


FAR = 4_000_000


@pytest.mark.parametrize("name", ["gecko", "megalodon", "llama"])
def test_attention_at_position_four_million(name: str) -> None:
    """Streams that begin at position 4,000,000, a multiple of the chunk, are read as streams that begin at 0."""
    network, tokens = small(name).eval(), tokens_of(3 * C + 1)
    with torch.no_grad():
        expected, state = network(tokens)
        _, empty = network(tokens[:, :1])

        def far(layer_state: Any) -> Any:
            if name == "llama":
                return layer_state._replace(
                    keys=layer_state.keys[:, :0], values=layer_state.values[:, :0], position=FAR
                )
            attention = layer_state.attention
            attention = attention._replace(keys=attention.keys[:, :0], values=attention.values[:, :0], position=FAR)
            return type(layer_state)(None, None, attention, None)

        begun = NetworkState(tuple(far(layer_state) for layer_state in empty.layers), None, None)
        cut = 3 * C - 1
        first, state = network(tokens[:, :cut], begun)
        rest, _ = network(tokens[:, cut:], state)
    position = state.layers[0].position if name == "llama" else state.layers[0].attention.position
    assert position == FAR + cut
    compare({"logits": torch.cat((first, rest), dim=1)}, {"logits": expected}, LIMITS.forward)
