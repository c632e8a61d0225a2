"""Adaptive working memory against the authors' vectors, its reference, any split of itself, and other documents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gecko_lab.kernels.working_memory import WorkingMemoryState, chunk_products, whole_chunks, working_memory
from gecko_lab.kernels.working_memory import torch as torch_backend
from gecko_lab.kernels.working_memory.baselines import loop
from gecko_lab.kernels.working_memory.inputs import Inputs, Shape, make_inputs

GOLDEN = Path(__file__).parents[1] / "golden"
GOLDEN_TOLERANCE = 2e-5
FORWARD_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4
BFLOAT16_FORWARD_TOLERANCE, BFLOAT16_GRADIENT_TOLERANCE = 5e-3, 2e-2

SHAPE = Shape(B=3, L=43, H=2, S=5, V=7, chunk_size=8)
# At a chunk's start; inside chunks that follow each other; several in one chunk and at a chunk's last timestep.
DOCUMENTS = ((0, 16), (0, 11, 20), (0, 3, 5, 6, 23, 24, 39))
CASES = {
    "one document": (SHAPE, None),
    "documents": (SHAPE, DOCUMENTS),
    "whole chunks": (SHAPE._replace(L=40), None),
    "shorter than a chunk": (SHAPE._replace(L=5), ((0,), (0, 2), ())),
    "chunks of one": (SHAPE._replace(L=9, chunk_size=1), ((0, 4), (0, 1, 2), (8,))),
}


def relative_rms(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.detach().double(), expected.detach().double()
    error, size = (actual - expected).square().mean().sqrt(), expected.square().mean().sqrt()
    return (error / size).item() if size > 0 else error.item()


def floats(state: WorkingMemoryState) -> dict[str, Tensor]:
    """The state's floating-point fields, empty ones left out, without -inf, which has no difference."""
    fields = state._asdict()
    fields.pop("position")
    fields = {name: x for name, x in fields.items() if x.is_floating_point() and x.numel()}
    return {name: x.masked_fill(x == -torch.inf, 0.0) for name, x in fields.items()}


def evaluate(inputs: Inputs, pieces: list[int] | None = None, weight_state: bool = True, **options):
    """Output, final state, and by name the gradients of <y, dy> plus a projection of the final state."""
    q, k, v = (x.detach().clone().requires_grad_() for x in inputs[:3])
    state, outputs, start = None, [], 0
    for length in pieces or [q.shape[1]]:
        piece = slice(start, start + length)
        segments = None if inputs.segments is None else inputs.segments[:, piece]
        y, state = working_memory(q[:, piece], k[:, piece], v[:, piece], state, segments, **options)
        outputs.append(y)
        start += length
    assert start == q.shape[1]
    y = torch.cat(outputs, dim=1)
    loss = (y.double() * inputs.dy.double()).sum()
    if weight_state:
        for index, x in enumerate(floats(state).values()):
            weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
            loss = loss + (x.double() * weights.to(x.device)).sum()
    gradients = dict(zip(("dq", "dk", "dv"), torch.autograd.grad(loss, (q, k, v)), strict=True))
    return y, state, gradients


def assert_close(actual, expected, forward: float = FORWARD_TOLERANCE, gradient: float = GRADIENT_TOLERANCE) -> None:
    (y, state, gradients), (y_expected, state_expected, gradients_expected) = actual, expected
    assert relative_rms(y, y_expected) <= forward, "y"
    for name, x in floats(state_expected).items():
        assert relative_rms(floats(state)[name], x) <= forward, name
    for name in ("document", "next_document", "running_document"):
        assert torch.equal(getattr(state, name), getattr(state_expected, name)), name
    assert state.position == state_expected.position
    for name, x in gradients_expected.items():
        assert relative_rms(gradients[name], x) <= gradient, name


def double(inputs: Inputs) -> Inputs:
    return Inputs(*(x.double() if x is not None and x.is_floating_point() else x for x in inputs))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", ["single", "documents"])
def test_golden(name: str, backend: str) -> None:
    with np.load(GOLDEN / f"adaptive_working_memory_{name}.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    q, k, v = (golden[key].transpose(1, 2).clone().requires_grad_() for key in ("q", "k", "v"))
    segments = golden["document_starts"].cumsum(dim=1)
    y, state = working_memory(q, k, v, None, segments, chunk_size=int(golden["chunk_size"]), backend=backend)
    y.backward(golden["dy"].transpose(1, 2))
    assert relative_rms(y.transpose(1, 2), golden["y"]) <= GOLDEN_TOLERANCE
    # The authors' final memory is what the next chunk will read.
    assert relative_rms(state.memory, golden["memory"]) <= GOLDEN_TOLERANCE
    assert relative_rms(state.log_norm, golden["log_norm"]) <= GOLDEN_TOLERANCE
    for key, x in (("dq", q), ("dk", k), ("dv", v)):
        assert relative_rms(x.grad.transpose(1, 2), golden[key]) <= GOLDEN_TOLERANCE, key


@pytest.mark.parametrize("delta_rule", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: str, delta_rule: bool) -> None:
    shape, document_starts = CASES[case]
    inputs = make_inputs(shape, document_starts=document_starts)
    options = {"chunk_size": shape.chunk_size, "delta_rule": delta_rule}
    expected = evaluate(double(inputs), backend="reference", **options)
    assert_close(evaluate(inputs, backend="torch", **options), expected)
    assert_close(evaluate(double(inputs), backend="torch", **options), expected, forward=1e-12, gradient=1e-12)
    assert_close(evaluate(inputs, backend="reference", **options), expected)


@pytest.mark.parametrize("document_starts", [None, DOCUMENTS])
def test_matches_reference_in_pieces(document_starts) -> None:
    inputs = make_inputs(SHAPE, document_starts=document_starts)
    pieces = [3, 1, 4, 17, 2, 16]
    expected = evaluate(double(inputs), pieces, chunk_size=8, backend="reference")
    assert_close(evaluate(inputs, pieces, chunk_size=8), expected)


@pytest.mark.parametrize("document_starts", [None, DOCUMENTS])
def test_gradients_of_the_output_alone(document_starts) -> None:
    """Nothing reads the last two chunks: the path that skips them."""
    inputs = make_inputs(SHAPE, document_starts=document_starts)
    expected = evaluate(double(inputs), weight_state=False, chunk_size=8, backend="reference")
    assert_close(evaluate(inputs, weight_state=False, chunk_size=8), expected)
    assert not expected[2]["dv"][:, 32:].any()


@pytest.mark.parametrize("document_starts", [None, DOCUMENTS])
@pytest.mark.parametrize("chunks", [1, 2])
def test_groups_of_chunks(chunks: int, document_starts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are small enough for one group: with a smaller budget there are several."""
    inputs = make_inputs(SHAPE, document_starts=document_starts)
    expected = evaluate(inputs, chunk_size=8)
    monkeypatch.setattr(torch_backend, "_GROUP_BYTES_CPU", chunks * 4 * SHAPE.B * 8 * SHAPE.H * SHAPE.V)
    assert_close(evaluate(inputs, chunk_size=8), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", [40, 43])
def test_affine_form_equals_the_authors_form(length: int, dtype: torch.dtype) -> None:
    inputs = make_inputs(SHAPE._replace(L=length), dtype=dtype)
    y, _, gradients = evaluate(inputs, weight_state=False, chunk_size=8)
    q, k, v = (x.requires_grad_() for x in inputs[:3])
    y_loop = loop(q, k, v, chunk_size=8)
    assert relative_rms(y, y_loop) <= FORWARD_TOLERANCE
    for name, x in zip(gradients, torch.autograd.grad(y_loop, (q, k, v), inputs.dy), strict=True):
        assert relative_rms(gradients[name], x) <= GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("delta_rule", [True, False])
def test_gradcheck(delta_rule: bool, backend: str) -> None:
    """Every input and every finite field of the state: the call ends a chunk, reads a whole one and begins another."""
    first, second = Shape(2, 7, 1, 2, 3, 3), Shape(2, 6, 1, 2, 3, 3)
    _, state, _ = evaluate(make_inputs(first, dtype=torch.float64, document_starts=((0,), (0, 6))), chunk_size=3)
    inputs = make_inputs(second, dtype=torch.float64, document_starts=((), (4,)), seed=1)
    segments = inputs.segments + state.current_document()[:, None]
    if not delta_rule:
        state = state._replace(running_features=state.running_features[..., :0])
    # -inf, an empty memory's log-normaliser, has no finite differences.
    names = [name for name in floats(state) if getattr(state, name).isfinite().all()]
    assert len(names) >= 5

    def call(q, k, v, *fields):
        before = state._replace(**dict(zip(names, fields, strict=True)))
        y, after = working_memory(q, k, v, before, segments, chunk_size=3, delta_rule=delta_rule, backend=backend)
        return y, *floats(after).values()

    tensors = [*inputs[:3], *(getattr(state, name).detach() for name in names)]
    assert torch.autograd.gradcheck(call, [x.requires_grad_() for x in tensors], fast_mode=True)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_split_is_the_whole(data: st.DataObject) -> None:
    chunk_size = data.draw(st.sampled_from([1, 2, 4, 7]), label="chunk_size")
    pieces = data.draw(st.lists(st.integers(1, 2 * chunk_size + 3), min_size=2, max_size=5), label="pieces")
    length = sum(pieces)
    starts = st.lists(st.integers(0, length - 1), max_size=4)
    document_starts = data.draw(st.none() | st.tuples(starts, starts), label="document_starts")
    inputs = make_inputs(Shape(2, length, 2, 3, 4, chunk_size), document_starts=document_starts)
    options = {"chunk_size": chunk_size, "delta_rule": data.draw(st.booleans(), label="delta_rule")}
    assert_close(evaluate(inputs, pieces, **options), evaluate(inputs, **options))


@pytest.mark.parametrize("pieces", [None, [5, 1, 9, 16, 12]])
@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("content", [torch.inf, torch.nan])
def test_no_leak_between_documents(content: float, backend: str, pieces: list[int] | None) -> None:
    """Bit for bit: outputs, states and gradients of a document do not know what another one holds."""
    inputs = make_inputs(SHAPE, document_starts=DOCUMENTS)
    y, state, gradients = evaluate(inputs, pieces, chunk_size=8, weight_state=False, backend=backend)
    for changed in (1, 2, 4):
        other = inputs.segments != changed
        contaminated = Inputs(
            *(x.masked_fill(~other[..., None, None], content) for x in inputs[:3]), inputs.segments, inputs.dy
        )
        y_, state_, gradients_ = evaluate(contaminated, pieces, chunk_size=8, weight_state=False, backend=backend)
        assert torch.equal(y_[other], y[other])
        assert y_[other].isfinite().all()
        for name, x in gradients.items():
            assert torch.equal(gradients_[name][other], x[other]), name
        for name in floats(state):
            part = name.removesuffix("memory").removesuffix("log_norm").removesuffix("values").removesuffix("features")
            rows = getattr(state, f"{part}document") != changed
            assert torch.equal(getattr(state_, name)[rows], getattr(state, name)[rows]), name


def test_documents_packed_at_chunk_starts_equal_separate_ones() -> None:
    """From a document that begins a chunk on, everything is as in a stream of its own."""
    inputs = make_inputs(SHAPE._replace(B=1), document_starts=((0, 16),))
    whole, state = working_memory(*inputs[:3], None, inputs.segments, chunk_size=8)
    alone, state_alone = working_memory(*(x[:, 16:] for x in inputs[:3]), chunk_size=8)
    assert relative_rms(whole[:, 16:], alone) <= FORWARD_TOLERANCE
    assert relative_rms(state.running_values, state_alone.running_values) <= FORWARD_TOLERANCE
    assert not whole[:, 16:32].any()
    assert whole[:, 32:].any()


def test_segments_none_continues_the_document() -> None:
    inputs = make_inputs(SHAPE, document_starts=((0,), (0, 11), (0, 24)))
    (q, k, v), segments = inputs[:3], inputs.segments
    _, state = working_memory(*(x[:, :26] for x in (q, k, v)), None, segments[:, :26], chunk_size=8)
    rest = [x[:, 26:] for x in (q, k, v)]
    expected, _ = working_memory(*rest, state, segments[:, 26:], chunk_size=8)
    for backend in ("torch", "reference"):
        y, _ = working_memory(*rest, state, chunk_size=8, backend=backend)
        assert relative_rms(y, expected) <= FORWARD_TOLERANCE


@pytest.mark.parametrize("document_starts", [None, DOCUMENTS])
def test_bfloat16(document_starts) -> None:
    inputs = make_inputs(SHAPE, document_starts=document_starts, dtype=torch.bfloat16)
    expected = evaluate(double(inputs), chunk_size=8, backend="reference")
    actual = evaluate(inputs, [10, 33], chunk_size=8)
    assert actual[0].dtype == torch.bfloat16
    assert all(x.dtype == torch.float32 for x in floats(actual[1]).values())
    assert_close(actual, expected, forward=BFLOAT16_FORWARD_TOLERANCE, gradient=BFLOAT16_GRADIENT_TOLERANCE)


def test_autocast_keeps_the_memory_in_float32() -> None:
    inputs = make_inputs(SHAPE)
    expected = evaluate(inputs, chunk_size=8)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = working_memory(*inputs[:3], chunk_size=8)
    assert torch.equal(y, expected[0])
    assert torch.equal(state.memory, expected[1].memory)


def test_meta_device() -> None:
    y, state = working_memory(*make_inputs(SHAPE, device="meta")[:3], chunk_size=8)
    assert y.shape == (3, 43, 2, 7)
    assert state.running_features.device.type == "meta"


def test_state_size_is_fixed() -> None:
    def size(length: int, chunk_size: int, **options) -> int:
        inputs = make_inputs(SHAPE._replace(L=length))
        _, state = working_memory(*inputs[:3], chunk_size=chunk_size, **options)
        return sum(x.untyped_storage().nbytes() for x in state[:-1])

    B, _, H, S, V, _ = SHAPE
    expected = 4 * B * H * (3 * S * V + 3 * S + S * S) + 3 * 8 * B
    assert {size(length, c) for length in (1, 9, 40, 43) for c in (1, 8, 16, 512)} == {expected}
    assert size(43, 8, delta_rule=False) == expected - 4 * B * H * S * S


def test_four_million_timesteps_in() -> None:
    """The position enters only through its offset in the chunk."""
    inputs = make_inputs(SHAPE)
    _, state = working_memory(*(x[:, :20] for x in inputs[:3]), chunk_size=8)
    rest = [x[:, 20:] for x in inputs[:3]]
    expected, _ = working_memory(*rest, state, chunk_size=8)
    y, after = working_memory(*rest, state._replace(position=4_000_000 + 20), chunk_size=8)
    assert torch.equal(y, expected)
    assert after.position == 4_000_043


def test_opcheck() -> None:
    """Schema, fake tensors and autograd registration of the custom ops, as torch.compile needs them."""
    inputs = make_inputs(SHAPE._replace(L=16), document_starts=((0,), (0, 3), (0, 12)))
    q, k, v = (x.unflatten(1, (2, 8)).requires_grad_() for x in inputs[:3])
    keep = inputs.segments.unflatten(1, (2, 8)) == inputs.segments.unflatten(1, (2, 8))[:, :, -1:]
    memory = torch.randn(3, 1, 2, 5, 7, requires_grad=True)
    torch.library.opcheck(chunk_products.sums.opaque, (k, v, keep, True, torch.float32, "torch"))
    torch.library.opcheck(chunk_products.read.opaque, (q, memory, keep, torch.float32, "torch"))
    first, second, log_norm = (torch.randn(3, 2, 5, *dims, requires_grad=True) for dims in ([7], [7], []))
    same = torch.tensor([[False, True], [True, True], [True, False]])
    arguments = (q, k, v, keep, keep, same, first, second, log_norm, 0, True, "torch")
    torch.library.opcheck(whole_chunks.chunks.opaque, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "pytorch"}, "no backend 'pytorch': choose one of auto, triton, torch, reference"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
        ({"k": torch.zeros(3, 43, 2, 4)}, r"k \[3, 43, 2, 4\]"),
        ({"v": torch.zeros(3, 42, 2, 7)}, r"v \[3, 42, 2, 7\]"),
        ({"q": torch.zeros(3, 43, 2, 5, dtype=torch.int64)}, "floating-point"),
        ({"segments": torch.zeros(3, 42, dtype=torch.int64)}, r"segments must be \[B, L\] = \[3, 43\]"),
        ({"delta_rule": False}, "made with delta_rule=True"),
        ({"v": torch.zeros(3, 43, 2, 6)}, "the state's memory must be"),
    ],
)
def test_errors(change: dict, message: str) -> None:
    q, k, v, _, _ = make_inputs(SHAPE)
    _, state = working_memory(q, k, v, chunk_size=8)
    arguments = {"q": q, "k": k, "v": v, "state": state, "chunk_size": 8} | change
    with pytest.raises(ValueError, match=message):
        working_memory(**arguments)
