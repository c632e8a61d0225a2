"""The backend triton of `cema`: interpreted on CPU, compiled where there is a GPU; against the float64 reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")

from gecko_lab.kernels.cema import cema
from gecko_lab.kernels.cema import triton_launch as launches
from gecko_lab.kernels.cema.inputs import Inputs, Shape, make_inputs
from gecko_lab.kernels.cema.triton import cema_triton
from tests.tolerances import TOLERANCE, Limits, compare, rms_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMITS = TOLERANCE | {torch.float16: Limits(forward=1e-3, gradient=4e-3)}
SHAPES = (
    Shape(1, 1, 3, 2),
    Shape(2, 5, 3, 2, num_starts=2),
    Shape(2, 16, 5, 3, num_parts=1),
    Shape(1, 50, 2, 17),
    Shape(2, 37, 3, 2, num_starts=20),
    Shape(1, 99, 3, 4, num_parts=1, num_starts=3),
)


@pytest.fixture
def short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several spans in few timesteps."""
    monkeypatch.setattr(launches, "_MIN_BLOCKS_PER_SPAN", 2)


def draw(shape: Shape, dtype: torch.dtype = torch.float32, seed: int = 2) -> Inputs:
    return Inputs(*(None if t is None else t.to(DEVICE) for t in make_inputs(shape, seed, dtype)))


def evaluate(inputs: Inputs, backend: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Outputs and all gradients, by name, for a fixed random output gradient."""
    cast = (t if dtype is None or t is None or not t.is_floating_point() else t.to(dtype) for t in inputs)
    leaves = Inputs(*(t.clone().requires_grad_() if t is not None and t.is_floating_point() else t for t in cast))
    y, state = cema(*leaves, backend=backend)
    generator = torch.Generator().manual_seed(1)
    dy, dstate = (torch.randn(t.shape, generator=generator).to(t) for t in (y, state))
    torch.autograd.backward((y, state), (dy, dstate))
    gradients = {f"d{name}": t.grad for name, t in leaves._asdict().items() if t is not None and t.requires_grad}
    return {"y": y.detach(), "final": state.detach(), **gradients}


def check(inputs: Inputs, dtype: torch.dtype) -> None:
    actual = evaluate(inputs, "triton")
    expected = evaluate(inputs, "reference", torch.float64)
    for names, limit in (
        (("y", "final"), LIMITS[dtype].forward),
        (expected.keys() - {"y", "final"}, LIMITS[dtype].gradient),
    ):
        compare({name: actual[name] for name in names}, {name: expected[name] for name in names}, limit)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cema_triton_against_reference(shape: Shape) -> None:
    check(draw(shape), torch.float32)


@pytest.mark.usefixtures("short_spans")
@pytest.mark.parametrize("num_starts", [0, 4])
def test_cema_triton_in_many_spans(num_starts: int) -> None:
    """Six spans of a row and three rows are two groups of columns; the last spans are shorter."""
    check(draw(Shape(3, 185, 2, 2, num_starts=num_starts)), torch.float32)


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_cema_triton_of_any_documents(data: st.DataObject) -> None:
    """Documents that begin at the edges of blocks and spans, end within their block, or fill it."""
    length = data.draw(st.sampled_from([32, 48, 67]))
    inputs = draw(Shape(2, length, 2, 2), seed=data.draw(st.integers(0, 99)))
    places = st.sets(st.sampled_from([0, 1, 15, 16, 17, 30, 31, 32, 33, 47, 48, 63, 64, length - 1]))
    starts = torch.zeros(2, length, dtype=torch.bool)
    for row in starts:
        row[[t for t in data.draw(places) if t < length]] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launches, "_MIN_BLOCKS_PER_SPAN", 1)
        check(inputs._replace(document_starts=starts.to(DEVICE)), torch.float32)


@pytest.mark.usefixtures("short_spans")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cema_triton_in_low_precision(dtype: torch.dtype) -> None:
    inputs = draw(Shape(1, 140, 2, 4, num_starts=2), dtype)
    actual = evaluate(inputs, "triton")
    assert (actual["y"].dtype, actual["dx"].dtype, actual["final"].dtype) == (dtype, dtype, torch.float32)
    check(inputs, dtype)


@pytest.mark.skipif(DEVICE == "cpu", reason="the interpreter computes in float32 and does not round as a GPU does")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cema_triton_is_nearly_as_near_as_torch(dtype: torch.dtype) -> None:
    inputs = draw(Shape(2, 1000, 40, 16, num_starts=3), dtype)
    expected = evaluate(inputs, "reference", torch.float64)
    ours, theirs = evaluate(inputs, "triton"), evaluate(inputs, "torch")
    for name in expected.keys() - {"final"}:  # which torch computes in float32 from the same x
        assert rms_error(ours[name], expected[name]) <= 2 * rms_error(theirs[name], expected[name]), name


def test_cema_triton_of_strided_tensors() -> None:
    inputs = draw(Shape(2, 20, 4, 2))
    expected, _ = cema(*inputs, backend="triton")
    strided = inputs._replace(
        x=inputs.x.mT.contiguous().mT, p=inputs.p.mT.contiguous().mT, state=inputs.state.expand(2, 4, 2, 2)
    )
    assert not strided.x.is_contiguous()
    actual, _ = cema(*strided, backend="triton")
    assert torch.equal(actual, expected)


@pytest.mark.usefixtures("short_spans")
def test_cema_triton_in_pieces() -> None:
    """Any split of the stream equals the whole, and gradients flow through the states between."""
    lengths = [3, 32, 41, 16]
    leaves = Inputs(
        *(
            t.requires_grad_() if t is not None and t.is_floating_point() else t
            for t in draw(Shape(1, sum(lengths), 2, 2, 2, 3))
        )
    )
    tensors = {name: t for name, t in leaves._asdict().items() if t is not None and t.requires_grad}
    whole, whole_state = cema(*leaves, backend="triton")
    state, outputs = leaves.state, []
    for x, starts in zip(leaves.x.split(lengths, 1), leaves.document_starts.split(lengths, 1), strict=True):
        y, state = cema(x, *leaves[1:5], state, starts, backend="triton")
        outputs.append(y)
    pieces = torch.cat(outputs, 1)
    compare({"y": pieces, "final": state}, {"y": whole, "final": whole_state}, LIMITS[torch.float32].forward)
    expected = torch.autograd.grad(whole.square().sum() + whole_state.square().sum(), list(tensors.values()))
    actual = torch.autograd.grad(pieces.square().sum() + state.square().sum(), list(tensors.values()))
    compare(
        dict(zip(tensors, actual, strict=True)),
        dict(zip(tensors, expected, strict=True)),
        LIMITS[torch.float32].gradient,
    )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.usefixtures("short_spans")
@pytest.mark.parametrize(("document", "poison"), [(0, float("nan")), (2, float("inf")), (3, float("nan"))])
def test_cema_triton_documents_do_not_leak(document: int, poison: float) -> None:
    """Other documents' outputs, gradients and final states keep every bit when one document's values change."""
    inputs = draw(Shape(1, 40, 2, 2))
    starts = torch.zeros(1, 40, dtype=torch.bool, device=DEVICE)
    starts[:, [5, 7, 9, 34]] = True
    segment = starts.cumsum(1)
    poisoned = segment == document

    def run(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y, final = cema(x, *inputs[1:5], state, starts, backend="triton")
        (dx,) = torch.autograd.grad((y, final), x, (y.detach(), final.detach()))
        return y.detach(), final.detach(), dx

    state = torch.full_like(inputs.state, poison) if document == 0 else inputs.state
    y, final, dx = run(inputs.x, inputs.state)
    y_poisoned, final_poisoned, dx_poisoned = run(inputs.x.masked_fill(poisoned[..., None], poison), state)
    assert torch.equal(y[~poisoned], y_poisoned[~poisoned])
    assert torch.equal(dx[~poisoned], dx_poisoned[~poisoned])
    assert torch.equal(final, final_poisoned)
    assert not torch.equal(y[poisoned], y_poisoned[poisoned])


@pytest.mark.usefixtures("short_spans")
def test_cema_triton_is_deterministic() -> None:
    inputs = draw(Shape(2, 70, 2, 2, num_starts=2))
    first, second = evaluate(inputs, "triton"), evaluate(inputs, "triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_cema_triton_registration() -> None:
    inputs = draw(Shape(1, 20, 2, 2, 2, 1))
    leaves = (t.requires_grad_() if t is not None and t.is_floating_point() else t for t in inputs)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(cema_triton.opaque, tuple(leaves), test_utils=checks)


def test_cema_triton_compiles_whole() -> None:
    inputs = draw(Shape(1, 20, 2, 2))
    expected = cema_triton(*inputs)[0]
    compiled = torch.compile(lambda *given: cema_triton(*given)[0], fullgraph=True, backend="aot_eager")
    x = inputs.x.clone().requires_grad_()
    actual = compiled(*inputs._replace(x=x))
    assert torch.equal(actual, expected)
    actual.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_cema_triton_does_not_compute_in_float64() -> None:
    with pytest.raises(ValueError, match="float64 is for the backends torch and reference"):
        cema(*draw(Shape(1, 5, 2, 2), torch.float64), backend="triton")


@given(
    batch=st.integers(1, 9),
    length=st.integers(1, 70_000),
    num_features=st.sampled_from([1, 384, 4096]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_spans_hold_every_block_once(batch: int, length: int, num_features: int, dtype: torch.dtype) -> None:
    launch = launches.choose_launch(dtype, 16)
    spans = launches.choose_spans(batch, length, num_features, launch)
    assert spans.num_blocks == length // launch.block_length
    last = spans.num_blocks - (spans.num_spans - 1) * spans.blocks_per_span
    assert (0 < last <= spans.blocks_per_span) if spans.num_blocks else spans.num_spans == 0
    assert (
        (spans.num_groups - 1) * launch.num_columns < batch * spans.num_spans <= spans.num_groups * launch.num_columns
    )
    # states between spans stay small beside x
    assert spans.num_spans <= 1 or spans.blocks_per_span >= 8
