"""Grouped norms: the pieces on CPU against the formulas and PyTorch's norms, gradients by name, what is kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.kernels.grouped_norm import grouped_norm
from gecko_lab.kernels.grouped_norm.inputs import Shape, make_inputs
from gecko_lab.kernels.grouped_norm.op import Backend
from tests.tolerances import TOLERANCE, Limits, compare

LIMITS = TOLERANCE | {torch.float16: Limits(forward=1e-3, gradient=4e-3)}
SHAPES = [
    Shape(batch, length, num_groups * group_size, num_groups, centred)
    for batch, length, num_groups, group_size in [(1, 1, 1, 5), (2, 7, 3, 4), (3, 40, 1, 33), (2, 64, 8, 12)]
    for centred in (False, True)
]
NAMES = ("x", "weight", "bias")


def tensors_of(shape: Shape, dtype: torch.dtype = torch.float32, affine: bool = True) -> list[Tensor]:
    tensors = [x for x in make_inputs(shape, dtype=dtype) if x is not None]
    return tensors if affine else tensors[:1]


def evaluate(
    tensors: list[Tensor], shape: Shape, backend: Backend, dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The output, and gradients by name for a fixed random gradient of it; on the device of the inputs."""
    leaves = [(x if dtype is None else x.to(dtype)).clone().requires_grad_() for x in tensors]
    y = grouped_norm(*leaves, num_groups=shape.num_groups, centred=shape.centred, backend=backend)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(tensors[0])
    return {"y": y} | dict(zip(NAMES, torch.autograd.grad(y, leaves, dy.to(y.dtype)), strict=False))


def within(actual: dict[str, Tensor], expected: dict[str, Tensor], limits: Limits) -> None:
    for name, x in expected.items():
        compare({name: actual[name]}, {name: x}, limits.forward if name == "y" else limits.gradient)


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_backend_against_the_float64_reference(shape: Shape, dtype: torch.dtype, affine: bool) -> None:
    tensors = tensors_of(shape, dtype, affine)
    actual = evaluate(tensors, shape, "torch")
    assert [actual[name].dtype for name in ("y", *NAMES[: len(tensors)])] == [dtype, *(x.dtype for x in tensors)]
    within(actual, evaluate(tensors, shape, "reference", torch.float64), LIMITS[dtype])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_is_the_norm_of_pytorch(shape: Shape) -> None:
    x, weight, *bias = tensors_of(shape, torch.float64)
    groups = x.unflatten(-1, (shape.num_groups, -1))
    norm = F.layer_norm if shape.centred else F.rms_norm
    y = norm(groups, groups.shape[-1:], eps=1e-5).flatten(-2) * (1 + weight) + sum(bias)
    actual = grouped_norm(x, weight, *bias, num_groups=shape.num_groups, centred=shape.centred, backend="reference")
    compare({"y": actual}, {"y": y}, LIMITS[torch.float64].forward)


@settings(max_examples=25)
@given(cached=st.integers(1, 600), length=st.integers(1, 50), centred=st.booleans())
def test_pieces_of_any_size_are_the_whole(cached: int, length: int, centred: bool) -> None:
    shape = Shape(2, length, 12, 3, centred)
    tensors = tensors_of(shape, torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gecko_lab.kernels.grouped_norm.torch.CACHED_ELEMENTS", cached)
        actual = evaluate(tensors, shape, "torch")
    within(actual, evaluate(tensors, shape, "reference"), LIMITS[torch.float64])


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(("num_groups", "centred"), [(1, False), (2, False), (1, True), (2, True)])
def test_grouped_norm_gradcheck(num_groups: int, centred: bool, backend: Backend) -> None:
    shape = Shape(1, 3, 6, num_groups, centred)
    leaves = [x.requires_grad_() for x in tensors_of(shape, torch.float64)]
    assert torch.autograd.gradcheck(
        lambda *x: grouped_norm(*x, num_groups=num_groups, centred=centred, backend=backend), leaves
    )


@pytest.mark.parametrize("centred", [False, True])
def test_a_common_level_does_not_cancel(centred: bool) -> None:
    """A mean of 1,000 times the spread: variances of squares less the square of the mean would have no digit left."""
    shape = Shape(1, 8, 64, 2, centred)
    x = tensors_of(shape)[0] + 1000.0
    actual = grouped_norm(x, num_groups=2, centred=centred, backend="torch")
    expected = grouped_norm(x.double(), num_groups=2, centred=centred, backend="reference")
    compare({"y": actual}, {"y": expected}, 1e-3 if centred else LIMITS[torch.float32].forward)


@pytest.mark.parametrize("num_groups", [1, 4])
def test_only_the_input_is_kept(num_groups: int) -> None:
    x, weight = (t.requires_grad_() for t in tensors_of(Shape(2, 64, 256, num_groups, False)))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        grouped_norm(x, weight, num_groups=num_groups, centred=False)
    assert [t.data_ptr() for t in kept if t.numel() > weight.numel()] == [x.data_ptr()]


@pytest.mark.parametrize("centred", [False, True])
def test_grouped_norm_under_autocast_stays_in_float32(centred: bool) -> None:
    shape = Shape(2, 9, 12, 3, centred)
    tensors = tensors_of(shape)
    expected = evaluate(tensors, shape, "torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = evaluate(tensors, shape, "torch")
    compare(actual, expected, 0.0)


def test_grouped_norm_is_a_sound_operation() -> None:
    for centred in (False, True):
        x, weight, *bias = (t.requires_grad_() for t in tensors_of(Shape(1, 5, 6, 2, centred)))
        torch.library.opcheck(
            torch.ops.gecko_lab.grouped_norm.default,
            (x, weight, bias[0] if bias else None, 2, centred, 1e-5, "torch"),
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_groups": 4}, r"x of shape \[..., L, D\], got \[1, 5, 6\] for 4 groups"),
        ({"x": torch.zeros(5, 6, dtype=torch.int64)}, "got torch.int64"),
        ({"weight": torch.zeros(5)}, r"weight must have shape \[6\] for x \[1, 5, 6\], got \[5\]"),
        ({"weight": None}, "a bias only beside a weight"),
        ({"centred": False}, "only where it is centred"),
        ({"backend": "cuda"}, "grouped_norm has no backend 'cuda'"),
    ],
)
def test_grouped_norm_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    arguments = {"num_groups": 2, "centred": True, **make_inputs(Shape(1, 5, 6, 2, True))._asdict()}
    with pytest.raises(ValueError, match=message):
        grouped_norm(**(arguments | change))
