"""Head normalisation: the pieces on CPU against the formulas, gradients by name, what is kept, what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gecko_lab.kernels.head_norm import head_norm
from gecko_lab.kernels.head_norm.inputs import Inputs, Shape, make_angles, make_inputs
from gecko_lab.kernels.head_norm.op import Backend
from tests.tolerances import TOLERANCE, Limits, compare

CPU = torch.device("cpu")
LIMITS = TOLERANCE | {torch.float16: Limits(forward=1e-3, gradient=4e-3)}
SHAPES = [Shape(1, 1, 1, 2), Shape(2, 1, 3, 6), Shape(3, 17, 2, 10, 2), Shape(2, 40, 4, 8), Shape(1, 131, 3, 12, 2)]


def evaluate(
    inputs: Inputs,
    shape: Shape,
    backend: Backend,
    *,
    num_rope_heads: int | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, and gradients by name for fixed random gradients of the outputs; on the device of the inputs."""
    device, source = inputs.z.device, inputs.z.dtype
    leaves = [(x if dtype is None else x.to(dtype)).clone().requires_grad_() for x in inputs]
    angles = make_angles(shape, device) if num_rope_heads is not None else (None, None)
    outputs = head_norm(*leaves, *angles, num_heads=shape.num_heads, num_rope_heads=num_rope_heads, backend=backend)
    generator = torch.Generator().manual_seed(7)
    dys = [
        torch.randn(y.shape, generator=generator, dtype=torch.float64).to(source).to(device, y.dtype) for y in outputs
    ]
    gradients = torch.autograd.grad(outputs, leaves, dys)
    named = dict(zip(("z", "gamma", "beta"), gradients, strict=True))
    return {f"y_{i}": y for i, y in enumerate(outputs)}, named


@pytest.mark.parametrize("rotated", [False, True], ids=["plain", "rotated"])
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_backend_against_the_float64_reference(shape: Shape, dtype: torch.dtype, rotated: bool) -> None:
    inputs = make_inputs(shape, dtype=dtype)
    num_rope_heads = max(1, shape.num_heads - 1) if rotated else None
    outputs, gradients = evaluate(inputs, shape, "torch", num_rope_heads=num_rope_heads)
    expected = evaluate(inputs, shape, "reference", num_rope_heads=num_rope_heads, dtype=torch.float64)
    assert {y.dtype for y in outputs.values()} == {dtype}
    assert [gradient.dtype for gradient in gradients.values()] == [x.dtype for x in inputs]
    compare(outputs, expected[0], LIMITS[dtype].forward)
    compare(gradients, expected[1], LIMITS[dtype].gradient)


@settings(max_examples=25)
@given(cached=st.integers(1, 600), batch=st.integers(1, 4), length=st.integers(1, 50))
def test_pieces_of_any_size_are_the_whole(cached: int, batch: int, length: int) -> None:
    shape = Shape(batch, length, 2, 6)
    inputs = make_inputs(shape, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gecko_lab.kernels.head_norm.torch.CACHED_ELEMENTS", cached)
        outputs, gradients = evaluate(inputs, shape, "torch", num_rope_heads=1)
    expected = evaluate(inputs, shape, "reference", num_rope_heads=1)
    compare(outputs, expected[0], LIMITS[torch.float64].forward)
    compare(gradients, expected[1], LIMITS[torch.float64].gradient)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_head_norm_gradcheck(backend: Backend) -> None:
    shape = Shape(2, 3, 2, 4)
    leaves = [x.requires_grad_() for x in make_inputs(shape, dtype=torch.float64)]
    angles = make_angles(shape, CPU)
    assert torch.autograd.gradcheck(lambda *x: head_norm(*x, *angles, num_heads=2, backend=backend), leaves)


def test_gradients_of_one_output_alone() -> None:
    shape = Shape(2, 9, 2, 4)
    for backend in ("torch", "reference"):
        leaves = [x.requires_grad_() for x in make_inputs(shape, dtype=torch.float64)]
        y = head_norm(*leaves, num_heads=2, backend=backend)[2]  # type: ignore[arg-type]
        dz, dgamma, dbeta = torch.autograd.grad(y.square().sum(), leaves)
        if backend == "torch":
            actual = {"z": dz, "gamma": dgamma, "beta": dbeta}
    compare(actual, {"z": dz, "gamma": dgamma, "beta": dbeta}, LIMITS[torch.float64].gradient)
    assert not actual["gamma"][[0, 1, 3]].any()


def test_only_the_input_is_kept() -> None:
    shape = Shape(2, 64, 2, 8)
    z, gamma, beta = (x.requires_grad_() for x in make_inputs(shape))
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):  # type: ignore[func-returns-value]
        head_norm(z, gamma, beta, *make_angles(shape, CPU), num_heads=2)
    assert [x.data_ptr() for x in kept if x.numel() >= z.numel()] == [z.data_ptr()]


def test_not_a_number_stays_in_its_timestep_and_head() -> None:
    shape = Shape(1, 12, 2, 4)
    z, gamma, beta = make_inputs(shape)
    expected, _ = evaluate(Inputs(z, gamma, beta), shape, "torch", num_rope_heads=2)
    z[0, 5, 6] = torch.nan
    outputs, gradients = evaluate(Inputs(z, gamma, beta), shape, "torch", num_rope_heads=2)
    for name, y in outputs.items():
        assert y[0, 5, 1].isnan().all()
        y[0, 5, 1] = expected[name][0, 5, 1]
        assert torch.equal(y, expected[name])
    assert int(gradients["z"].isnan().sum()) == 4


def test_head_norm_under_autocast_stays_in_float32() -> None:
    shape = Shape(2, 9, 2, 4)
    inputs = make_inputs(shape)
    expected = evaluate(inputs, shape, "torch", num_rope_heads=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = evaluate(inputs, shape, "torch", num_rope_heads=2)
    for one, other in zip(actual, expected, strict=True):
        compare(one, other, 0.0)


def test_head_norm_is_a_sound_operation() -> None:
    shape = Shape(1, 5, 2, 4, 2)
    inputs = [x.requires_grad_() for x in make_inputs(shape)]
    torch.library.opcheck(
        torch.ops.gecko_lab.head_norm.default,
        (*inputs, *make_angles(shape, CPU), 2, 1, 1e-5, "torch"),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": 3}, r"z of shape \[B, L, H·S\], got \[1, 5, 8\] for 3 heads"),
        ({"gamma": torch.zeros(3, 8)}, r"gamma and beta \[2 or 4, 8\]"),
        ({"beta": torch.zeros(4, 7)}, r"got \[4, 8\] and \[4, 7\]"),
        ({"z": torch.zeros(1, 5, 8, dtype=torch.int64)}, "got torch.int64"),
        ({"sin": None}, "cos and sin, or neither"),
        ({"cos": torch.zeros(4, 2)}, r"cos and sin \[L, S / 2\] for 5 timesteps"),
        ({"num_rope_heads": 3}, "num_rope_heads must lie in 0 … 2, got 3"),
        ({"backend": "cuda"}, "head_norm has no backend 'cuda'"),
    ],
)
def test_head_norm_refuses_what_does_not_fit(change: dict[str, object], message: str) -> None:
    shape = Shape(1, 5, 2, 4)
    cos, sin = make_angles(shape, CPU)
    arguments: dict[str, object] = {**make_inputs(shape)._asdict(), "cos": cos, "sin": sin, "num_heads": 2}
    with pytest.raises(ValueError, match=message):
        head_norm(**(arguments | change))  # type: ignore[arg-type]
