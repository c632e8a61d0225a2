"""CEMA: golden vectors, the blocked path against the float64 reference, documents, splits, dtypes and registration."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gecko_lab.kernels.cema import cema
from gecko_lab.kernels.cema.baselines import cema_fft
from gecko_lab.kernels.cema.inputs import TEST_SHAPES, Inputs, Shape, make_inputs
from gecko_lab.kernels.cema.torch import cema_blocks

GOLDEN = Path(__file__).parents[1] / "golden"
# RMS of the error over RMS of the reference: (outputs, gradients)
TOLERANCE = {torch.float64: (1e-12, 1e-11), torch.float32: (1e-6, 5e-6), torch.bfloat16: (5e-3, 2e-2)}
TOLERANCE[torch.float16] = (1e-3, 4e-3)
GOLDEN_TOLERANCE = 2e-5


def error(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.detach().double(), expected.detach().double()
    return float((actual - expected).norm() / expected.norm().clamp_min(1e-300))


def evaluate(inputs: Inputs, backend: str, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Outputs and all gradients, by name, for a fixed random output gradient."""
    cast = (t if dtype is None or t is None or not t.is_floating_point() else t.to(dtype) for t in inputs)
    leaves = Inputs(*(t.clone().requires_grad_() if t is not None and t.is_floating_point() else t for t in cast))
    y, state = cema(*leaves, backend=backend)
    generator = torch.Generator().manual_seed(1)
    dy, dstate = (torch.randn(t.shape, generator=generator) for t in (y, state))
    torch.autograd.backward((y, state), (dy.to(y.dtype), dstate.to(state.dtype)))
    gradients = {f"d{name}": t.grad for name, t in leaves._asdict().items() if t is not None and t.requires_grad}
    return {"y": y.detach(), "final": state.detach(), **gradients}


def compare(actual: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    assert actual.keys() == expected.keys()
    errors = {name: error(actual[name], expected[name]) for name in expected}
    limits = {name: TOLERANCE[dtype][name.startswith("d")] for name in expected}
    assert all(errors[name] <= limits[name] for name in errors), errors


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", ["single", "documents"])
def test_golden(name: str, backend: str) -> None:
    with np.load(GOLDEN / f"cema_{name}.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    q = golden["q"].requires_grad_()
    leaves = {
        "x": golden["x"].transpose(1, 2).contiguous(),
        "p": golden["p"],
        "gamma": torch.view_as_real(golden["gamma"]),
        "h0": torch.view_as_real(golden["h0"]),
    }
    x, p, gamma, h0 = (t.requires_grad_() for t in leaves.values())
    y, h = cema(x, p, q.abs(), q.angle(), gamma, h0, golden["document_starts"], backend=backend)
    y.backward(golden["dy"].transpose(1, 2))
    assert q.grad is not None
    actual = {"y": y, "h": h, "dx": x.grad, "dp": p.grad, "dq": torch.view_as_real(q.grad), "dgamma": gamma.grad}
    actual["dh0"] = h0.grad
    for key, value in actual.items():
        expected = golden[key]
        expected = torch.view_as_real(expected) if expected.is_complex() else expected
        expected = expected.transpose(1, 2) if key in ("y", "dx") else expected
        assert error(value, expected) <= GOLDEN_TOLERANCE, key


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", TEST_SHAPES, ids=str)
def test_cema_against_reference(shape: Shape, dtype: torch.dtype) -> None:
    inputs = make_inputs(shape, seed=2, dtype=dtype)
    compare(evaluate(inputs, "torch"), evaluate(inputs, "reference", torch.float64), dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_cema_in_low_precision(num_parts: int, dtype: torch.dtype) -> None:
    inputs = make_inputs(Shape(2, 150, 6, 8, num_parts=num_parts, num_starts=2), dtype=dtype)
    actual = evaluate(inputs, "torch")
    assert (actual["y"].dtype, actual["dx"].dtype) == (dtype, dtype)
    assert actual["final"].dtype == torch.float32
    compare(actual, evaluate(inputs, "reference", torch.float64), dtype)


def test_cema_under_autocast_stays_in_float32() -> None:
    inputs = make_inputs(Shape(2, 70, 4, 3))
    expected = evaluate(inputs, "torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = evaluate(inputs, "torch")
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


@pytest.mark.parametrize("num_features", [1, 100])
def test_cema_in_several_slabs(num_features: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs(Shape(2, 140, num_features, 3, num_starts=3), dtype=torch.float64)
    expected = evaluate(inputs, "reference")
    monkeypatch.setattr("gecko_lab.kernels.cema.torch._SLAB_BYTES", 1)
    compare(evaluate(inputs, "torch"), expected, torch.float64)


def test_cema_extreme_decays() -> None:
    """Decays that rounded to zero or to one, and a phase of several turns, give finite and right values."""
    inputs = make_inputs(Shape(1, 100, 3, 2), dtype=torch.float64)
    decay = torch.tensor([[0.0, 1.0], [1e-30, 1 - 1e-9], [0.5, 0.9]], dtype=torch.float64)
    inputs = inputs._replace(decay=decay, phase=inputs.phase * 3 - 8)
    compare(evaluate(inputs, "torch"), evaluate(inputs, "reference"), torch.float64)


@pytest.mark.parametrize("num_parts", [1, 2])
@pytest.mark.parametrize("num_starts", [0, 3])
def test_cema_gradcheck(num_parts: int, num_starts: int) -> None:
    inputs = make_inputs(Shape(2, 9, 2, 2, num_parts, num_starts), seed=3, dtype=torch.float64)
    leaves = [t.requires_grad_() for t in inputs if t is not None and t.is_floating_point()]

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        x, p, decay, *phase, gamma, state = tensors
        return cema(x, p, decay, phase[0] if phase else None, gamma, state, inputs.document_starts, backend="torch")

    assert torch.autograd.gradcheck(run, leaves)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_cema_in_pieces(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.sampled_from([1, 2, 7, 31, 63, 64, 65, 130]), min_size=1, max_size=5))
    num_starts = data.draw(st.integers(0, 3))
    shape = Shape(2, sum(lengths), 3, 2, data.draw(st.sampled_from([1, 2])), min(num_starts, sum(lengths)))
    inputs = make_inputs(shape, seed=data.draw(st.integers(0, 99)), dtype=torch.float64)
    leaves = Inputs(*(t.requires_grad_() if t is not None and t.is_floating_point() else t for t in inputs))
    tensors = [t for t in leaves if t is not None and t.requires_grad]
    whole, whole_state = cema(*leaves)

    state, outputs = leaves.state, []
    starts = [None] * len(lengths) if leaves.document_starts is None else leaves.document_starts.split(lengths, 1)
    for x, piece_starts in zip(leaves.x.split(lengths, 1), starts, strict=True):
        y, state = cema(x, *leaves[1:5], state, piece_starts)
        outputs.append(y)
    pieces = torch.cat(outputs, 1)
    assert error(pieces, whole) <= 1e-12
    assert error(state, whole_state) <= 1e-12
    expected = torch.autograd.grad(whole.square().sum() + whole_state.sum(), tensors)
    actual = torch.autograd.grad(pieces.square().sum() + state.sum(), tensors)
    for name, a, e in zip(("x", "p", "decay", "phase", "gamma", "state"), actual, expected, strict=False):
        assert error(a, e) <= 1e-11, name


@pytest.mark.parametrize("poison", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("document", range(6))
def test_cema_documents_do_not_leak(document: int, poison: float) -> None:
    """Other documents' outputs, gradients and final states keep every bit when one document's values change."""
    inputs = make_inputs(Shape(2, 300, 4, 3))
    starts = torch.zeros(2, 300, dtype=torch.bool)
    starts[:, [0, 5, 6, 64, 200]] = True
    starts[1, 0] = False
    segment = starts.cumsum(1)
    poisoned = segment == document
    if document == 0:
        inputs.state[1] = poison

    def run(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.clone().requires_grad_()
        y, final = cema(x, *inputs[1:5], state, starts, backend="torch")
        (dx,) = torch.autograd.grad((y, final), x, (y.detach(), final.detach()))
        return y.detach(), final.detach(), dx

    y, final, dx = run(inputs.x, make_inputs(Shape(2, 300, 4, 3)).state)
    y_poisoned, final_poisoned, dx_poisoned = run(inputs.x.masked_fill(poisoned[..., None], poison), inputs.state)
    assert torch.equal(y[~poisoned], y_poisoned[~poisoned])
    assert torch.equal(dx[~poisoned], dx_poisoned[~poisoned])
    ended = segment[:, -1] != document
    assert torch.equal(final[ended], final_poisoned[ended])
    assert not poisoned.any() or not torch.equal(y[poisoned], y_poisoned[poisoned])


def test_cema_start_at_zero_clears_the_state() -> None:
    inputs = make_inputs(Shape(2, 40, 3, 2))
    starts = torch.zeros(2, 40, dtype=torch.bool)
    starts[0, 0] = True
    y, final = cema(*inputs[:5], inputs.state, starts)
    fresh, fresh_final = cema(*inputs[:5])
    kept, kept_final = cema(*inputs[:5], inputs.state)
    assert torch.equal(final, torch.stack((fresh_final[0], kept_final[1])))
    assert torch.equal(y, torch.stack((fresh[0], kept[1])))


def test_cema_is_deterministic() -> None:
    inputs = make_inputs(Shape(2, 200, 70, 16, num_starts=3))
    first, second = evaluate(inputs, "torch"), evaluate(inputs, "torch")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("num_parts", "num_starts"), [(2, 0), (1, 2)])
def test_cema_blocks_registration(num_parts: int, num_starts: int) -> None:
    inputs = make_inputs(Shape(2, 20, 3, 2, num_parts, num_starts))
    leaves = (t.requires_grad_() if t is not None and t.is_floating_point() else t for t in inputs)
    torch.library.opcheck(cema_blocks.opaque, tuple(leaves))


def test_cema_compiles_whole() -> None:
    inputs = make_inputs(Shape(2, 70, 4, 3, num_starts=2))
    expected, _ = cema(*inputs)
    compiled = torch.compile(cema, fullgraph=True, backend="aot_eager")
    actual, _ = compiled(*inputs._replace(x=inputs.x.clone().requires_grad_()))
    assert torch.equal(actual, expected)
    actual.sum().backward()


def test_cema_on_meta() -> None:
    inputs = make_inputs(Shape(2, 70, 3, 2, num_starts=2), dtype=torch.bfloat16)
    y, state = cema(*(t.to("meta") for t in inputs if t is not None))
    assert (y.shape, y.dtype) == (inputs.x.shape, torch.bfloat16)
    assert (state.shape, state.dtype) == (inputs.state.shape, torch.float32)


@pytest.mark.parametrize("vandermonde", [True, False])
def test_baseline_computes_the_same(vandermonde: bool) -> None:
    inputs = make_inputs(Shape(2, 200, 5, 4), dtype=torch.float64)
    y, _ = cema(*inputs[:5], backend="reference")
    assert error(cema_fft(*inputs[:5], vandermonde=vandermonde), y) <= 1e-9


def test_errors_name_what_is_wrong() -> None:
    inputs = make_inputs(Shape(2, 5, 3, 2))
    with pytest.raises(ValueError, match="cema has no backend 'cuda': choose one of auto, triton, torch, reference"):
        cema(*inputs, backend="cuda")
    with pytest.raises(ValueError, match=r"p must be \[3, 2\], but is \[2, 2\]"):
        cema(inputs.x, inputs.p[:2], *inputs[2:])
    with pytest.raises(ValueError, match=r"gamma must be \[3, 2, 1\]"):
        cema(*inputs[:3], None, *inputs[4:])
    with pytest.raises(ValueError, match="L ≥ 1"):
        cema(inputs.x[:, :0], *inputs[1:])
    with pytest.raises(ValueError, match="float16"):
        cema(inputs.x.int(), *inputs[1:])
    with pytest.raises(ValueError, match="must be bool"):
        cema(*inputs[:6], torch.zeros(2, 5))
