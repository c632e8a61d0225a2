"""The state contract over the whole catalogue: any split equals the whole, and the state stays small."""

from typing import NamedTuple

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree

from gecko_lab.state import detach_state, state_bytes
from tests.components.catalogue import SIZE, STREAMING, C, Case, every, floating, run, run_in_pieces, starts_at
from tests.tolerances import FLOOR, TOLERANCE, compare

LENGTHS = (1, 2, C - 1, C, C + 1, 2 * C + 3)
LIMITS = TOLERANCE[torch.float32]


class Stream(NamedTuple):
    """Lengths of the pieces, and where the documents of each row begin; none: one document."""

    pieces: list[int]
    starts: tuple[list[int], list[int]] | None

    def document_starts(self) -> Tensor | None:
        return None if self.starts is None else starts_at(sum(self.pieces), *self.starts)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    pieces = draw(st.lists(st.sampled_from(LENGTHS), min_size=2, max_size=5))
    rows = st.lists(st.integers(0, sum(pieces) - 1), max_size=4)
    return Stream(pieces, draw(st.none() | st.tuples(rows, rows)))


def evaluate(case: Case, stream: Stream, split: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs and final state, and the gradients of all inputs and parameters, by name."""
    module, length = case.trained(), sum(stream.pieces)
    leaves = {name: x.requires_grad_() for name, x in case.inputs(length).items()}
    pieces = stream.pieces if split else [length]
    y, state = run_in_pieces(module, leaves, pieces, stream.document_starts())
    outputs = {"y": y, **floating(state)}
    generator = torch.Generator().manual_seed(2)
    loss = sum((x * torch.randn(x.shape, generator=generator)).sum() for x in outputs.values())
    assert isinstance(loss, Tensor)
    leaves |= dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return outputs, dict(zip(leaves, gradients, strict=True))


@every(STREAMING)
@given(stream=streams())
@example(stream=Stream([1, C - 1, C, C + 1, 2 * C + 3], None))
@example(stream=Stream([1, C - 1, C, C + 1, 2 * C + 3], ([0, 3, C, 2 * C + 1], [C + 2, 3 * C + 2])))
@example(stream=Stream([1] * (2 * C + 3), ([5], [C, 2 * C])))
@settings(max_examples=12)
def test_any_split_equals_the_whole(case: Case, stream: Stream) -> None:
    outputs, gradients = evaluate(case, stream, split=True)
    expected_outputs, expected_gradients = evaluate(case, stream, split=False)
    compare(outputs, expected_outputs, LIMITS.forward)
    compare(gradients, expected_gradients, LIMITS.gradient, FLOOR)


@every(STREAMING)
def test_a_detached_state_carries_no_gradient(case: Case) -> None:
    module, inputs = case.trained(), case.inputs(2 * C + 3)
    first = {name: x[:, : 2 * C + 1].requires_grad_() for name, x in inputs.items()}
    second = {name: x[:, 2 * C + 1 :].clone().requires_grad_() for name, x in inputs.items()}
    _, state = run(module, first)
    attached, next_state = run(module, second, state)
    detached, next_detached = run(module, second, detach_state(state))
    assert torch.equal(attached, detached)
    loss = detached.sum() + sum(x.sum() for x in floating(next_detached).values())
    gradients = torch.autograd.grad(loss, [*first.values(), *second.values()], allow_unused=True)
    assert gradients[: len(first)] == (None,) * len(first)
    if state_bytes(state):
        loss = attached.sum() + sum(x.sum() for x in floating(next_state).values())
        gradients = torch.autograd.grad(loss, list(first.values()), allow_unused=True)
        assert any(gradient is not None and gradient.any() for gradient in gradients)


@every(STREAMING)
def test_a_state_is_not_changed_by_reading_on(case: Case) -> None:
    """Two continuations of one prefix: what the first did must not reach the second."""
    module, inputs = case.trained(), case.inputs(3 * C + 1)
    _, state = run(module, {name: x[:, : 2 * C + 1] for name, x in inputs.items()})
    rest = {name: x[:, 2 * C + 1 :] for name, x in inputs.items()}
    before, (once, _), (again, _) = floating(state), run(module, rest, state), run(module, rest, state)
    assert torch.equal(once, again)
    compare(floating(state), before, 0.0)


@every(STREAMING)
def test_state_size_does_not_grow(case: Case) -> None:
    """At equal places in the chunk, after two chunks; full attention's grows."""
    module, inputs = case.trained(), case.inputs(12 * C + 1, batch=1)
    held = []
    for length in (2 * C + 1, 3 * C + 1, 7 * C + 1, 12 * C + 1):
        _, state = run_in_pieces(module, {name: x[:, :length] for name, x in inputs.items()}, [length])
        held.append(state_bytes(state))
    if case.grows:
        assert held == sorted(set(held))
    else:
        assert len(set(held)) == 1


@every(STREAMING)
def test_state_bytes_are_those_of_the_state(case: Case) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        module = case.trained(dtype)
        for length in (1, C - 1, C, C + 1, 2 * C, 2 * C + 1, 5 * C + 3):
            _, state = run(module, case.inputs(length, batch=1, dtype=dtype))
            assert module.state_bytes(length, dtype.itemsize) == state_bytes(state), (dtype, length)


@every(STREAMING)
def test_a_state_keeps_no_more_in_memory(case: Case) -> None:
    """It is no view of everything that was read at once."""
    module, length = case.trained(), 20 * C + 1
    with torch.no_grad():
        _, state = run_in_pieces(module, case.inputs(length), [length], starts_at(length, [3], []))
    for leaf in pytree.tree_leaves(state):
        if isinstance(leaf, Tensor):
            assert leaf.untyped_storage().nbytes() <= 2 * leaf.numel() * leaf.element_size()


@every(STREAMING)
def test_batch_rows_do_not_mix(case: Case) -> None:
    """A row's outputs are those that it has alone, whatever documents the other row has."""
    module, length = case.trained(), 3 * C + 2
    inputs = case.inputs(length)
    starts = starts_at(length, [2, C + 1, 2 * C], [])
    both, _ = run_in_pieces(module, inputs, [length], starts)
    for row in range(2):
        one = {name: x[row : row + 1] for name, x in inputs.items()}
        alone, _ = run_in_pieces(module, one, [length], starts[row : row + 1])
        compare({"y": both[row : row + 1]}, {"y": alone}, LIMITS.forward)


def test_the_cases_are_the_whole_catalogue() -> None:
    """Named here so that a component cannot fall out of the catalogue unnoticed."""
    found = {case.component.__name__ for case in STREAMING}
    assert found >= {
        "GeckoLayer", "TransformerLayer", "TimestepDecayNorm", "TimestepNorm", "RMSNorm", "ComplexEMA", "RealEMA",
        "SlidingChunkAttention", "ChunkAttention", "SlidingWindowAttention", "FullAttention",
        "AdaptiveWorkingMemory", "AdditiveMemory",
    }  # fmt: skip
    assert SIZE.chunk_size == C
