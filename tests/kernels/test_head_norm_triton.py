"""The backend triton of `head_norm` and `rotary`: interpreted on CPU, compiled where there is a GPU."""

import pytest
import torch

from gecko_lab.kernels.head_norm.inputs import Inputs, Shape, make_inputs
from gecko_lab.kernels.rotary import rotary, rotary_angles
from tests.kernels.test_head_norm import LIMITS, evaluate
from tests.tolerances import compare, rms_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [Shape(1, 1, 1, 2), Shape(2, 11, 3, 6), Shape(1, 70, 2, 24, 2), Shape(3, 5, 1, 96)]


def on_device(shape: Shape, dtype: torch.dtype) -> Inputs:
    return Inputs(*(x.to(DEVICE) for x in make_inputs(shape, dtype=dtype)))


@pytest.mark.parametrize("rotated", [False, True], ids=["plain", "rotated"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_head_norm_against_the_float64_reference(shape: Shape, dtype: torch.dtype, rotated: bool) -> None:
    inputs, num_rope_heads = on_device(shape, dtype), max(1, shape.num_heads - 1) if rotated else None
    actual = evaluate(inputs, shape, "triton", num_rope_heads=num_rope_heads)
    rounded = evaluate(inputs, shape, "torch", num_rope_heads=num_rope_heads)
    expected = evaluate(inputs, shape, "reference", num_rope_heads=num_rope_heads, dtype=torch.float64)
    assert [x.dtype for part in actual for x in part.values()] == [x.dtype for part in rounded for x in part.values()]
    for part, limit in zip(range(2), LIMITS[dtype], strict=True):
        for name, x in expected[part].items():
            twice = 2 * rms_error(rounded[part][name], x) if dtype.itemsize < 4 else 0.0
            compare({name: actual[part][name]}, {name: x}, max(limit, twice))


@pytest.mark.parametrize("programs", [1, 7])
def test_head_norm_in_programs_of_several_tiles(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at lengths that the interpreter would take too long for."""
    for direction in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(f"gecko_lab.kernels.head_norm.triton.{direction}_PROGRAMS", programs)
    shape = Shape(1, 37, 2, 128)
    inputs = on_device(shape, torch.float32)
    actual = evaluate(inputs, shape, "triton", num_rope_heads=1)
    again = evaluate(inputs, shape, "triton", num_rope_heads=1)
    expected = evaluate(inputs, shape, "reference", num_rope_heads=1, dtype=torch.float64)
    for part, limit in zip(range(2), LIMITS[torch.float32], strict=True):
        compare(actual[part], expected[part], limit)
        compare(again[part], actual[part], 0.0)


def test_not_a_number_stays_in_its_timestep_and_head() -> None:
    shape = Shape(1, 12, 2, 4)
    inputs = on_device(shape, torch.float32)
    expected, _ = evaluate(inputs, shape, "triton", num_rope_heads=2)
    inputs.z[0, 5, 6] = torch.nan
    outputs, gradients = evaluate(inputs, shape, "triton", num_rope_heads=2)
    for name, y in outputs.items():
        assert y[0, 5, 1].isnan().all()
        y[0, 5, 1] = expected[name][0, 5, 1]
        assert torch.equal(y, expected[name])
    assert int(gradients["z"].isnan().sum()) == 4


@pytest.mark.parametrize("num_rope_heads", [None, 1, 0])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rotary_against_the_float64_reference(shape: Shape, dtype: torch.dtype, num_rope_heads: int | None) -> None:
    x, dy = (torch.randn(shape[:4]).to(DEVICE, dtype) for _ in range(2))
    angles = rotary_angles(4_000_000, shape.length, shape.key_dim, 500_000.0, DEVICE)
    results = {}
    for backend, wide in (("triton", dtype), ("reference", torch.float64)):
        leaf = x.to(wide).requires_grad_()
        y = rotary(leaf, *angles, num_rope_heads=num_rope_heads, backend=backend)  # type: ignore[arg-type]
        (dx,) = torch.autograd.grad(y, leaf, dy.to(wide))
        results[backend] = {"y": y, "dx": dx}
    assert results["triton"]["y"].dtype == dtype
    compare(results["triton"], results["reference"], LIMITS[dtype].forward)
