"""Gates: the pieces on CPU against the formula, gradients by name, what is kept, what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.gated import gated
from gecko_lab.kernels.gated.inputs import Shape, make_inputs
from gecko_lab.kernels.gated.op import Backend
from tests.tolerances import TOLERANCE, Limits, compare

LIMITS = TOLERANCE | {torch.float16: Limits(forward=1e-3, gradient=4e-3)}
SHAPES = [Shape(1, 1, 1), Shape(2, 7, 13), Shape(3, 40, 96)]
NAMES = ("gate", "x", "addend")


def evaluate(tensors: list[Tensor], backend: Backend, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The output, and gradients by name for a fixed random gradient of it; on the device of the inputs."""
    leaves = [(x if dtype is None else x.to(dtype)).clone().requires_grad_() for x in tensors]
    y = gated(*leaves, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(tensors[0])
    return {"y": y} | dict(zip(NAMES, torch.autograd.grad(y, leaves, dy.to(y.dtype)), strict=False))


def within(actual: dict[str, Tensor], expected: dict[str, Tensor], limits: Limits) -> None:
    for name, x in expected.items():
        compare({name: actual[name]}, {name: x}, limits.forward if name == "y" else limits.gradient)


@pytest.mark.parametrize("added", [False, True], ids=["product", "sum"])
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_backend_against_the_float64_reference(shape: Shape, dtype: torch.dtype, added: bool) -> None:
    tensors = list(make_inputs(shape, dtype=dtype))[: 3 if added else 2]
    actual = evaluate(tensors, "torch")
    assert {x.dtype for x in actual.values()} == {dtype}
    within(actual, evaluate(tensors, "reference", torch.float64), LIMITS[dtype])


@settings(max_examples=25)
@given(cached=st.integers(1, 600), length=st.integers(1, 50), added=st.booleans())
def test_pieces_of_any_size_are_the_whole(cached: int, length: int, added: bool) -> None:
    tensors = list(make_inputs(Shape(2, length, 3), dtype=torch.float64))[: 3 if added else 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gecko_lab.kernels.gated.torch.CACHED_ELEMENTS", cached)
        actual = evaluate(tensors, "torch")
    within(actual, evaluate(tensors, "reference"), LIMITS[torch.float64])


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_gated_gradcheck(backend: Backend) -> None:
    leaves = [x.requires_grad_() for x in make_inputs(Shape(2, 3, 2), dtype=torch.float64)]
    assert torch.autograd.gradcheck(lambda *x: gated(*x, backend=backend), leaves)


def test_of_strided_tensors() -> None:
    tensors = [x.transpose(1, 2) for x in make_inputs(Shape(2, 5, 3), dtype=torch.float64)]
    within(evaluate(tensors, "torch"), evaluate(tensors, "reference"), LIMITS[torch.float64])


def test_only_gate_and_input_are_kept() -> None:
    tensors = [x.requires_grad_() for x in make_inputs(Shape(2, 64, 256))]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.data_ptr()), x)[1], lambda x: x):
        gated(*tensors)
    assert kept == [x.data_ptr() for x in tensors[:2]]


def test_dtypes_promote() -> None:
    gate, x, addend = (t.requires_grad_() for t in make_inputs(Shape(1, 5, 2)))
    y = gated(gate.bfloat16(), x, addend)
    assert y.dtype == torch.float32
    assert gated(gate.bfloat16(), x.bfloat16()).dtype == torch.bfloat16
    y.sum().backward()
    compare({"x": x.grad}, {"x": F.silu(gate.bfloat16().float())}, LIMITS[torch.float32].gradient)


def test_gated_is_a_sound_operation() -> None:
    inputs = [x.requires_grad_() for x in make_inputs(Shape(1, 5, 2))]
    for addend in (inputs[2], None):
        torch.library.opcheck(
            torch.ops.gecko_lab.gated.default,
            (*inputs[:2], addend, "torch"),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 5, 3)}, r"one shape, got \[\[1, 5, 2\], \[1, 5, 3\], \[1, 5, 2\]\]"),
        ({name: torch.zeros(2, dtype=torch.int64) for name in NAMES}, "got torch.int64"),
        ({"backend": "cuda"}, "gated has no backend 'cuda'"),
    ],
)
def test_gated_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated(**(make_inputs(Shape(1, 5, 2))._asdict() | change))
