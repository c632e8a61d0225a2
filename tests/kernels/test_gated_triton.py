"""The backend triton of `gated`: interpreted on CPU, compiled where there is a GPU."""

import pytest
import torch

from gecko_lab.kernels.gated.inputs import Shape, make_inputs
from tests.kernels.test_gated import LIMITS, evaluate, within
from tests.tolerances import Limits, rms_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [Shape(1, 1, 1), Shape(2, 37, 33), Shape(1, 64, 96)]


@pytest.mark.parametrize("added", [False, True], ids=["product", "sum"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gated_against_the_float64_reference(shape: Shape, dtype: torch.dtype, added: bool) -> None:
    tensors = [x.to(DEVICE) for x in make_inputs(shape, dtype=dtype)][: 3 if added else 2]
    actual, rounded = evaluate(tensors, "triton"), evaluate(tensors, "torch")
    expected = evaluate(tensors, "reference", torch.float64)
    assert {x.dtype for x in actual.values()} == {dtype}
    twice = max(rms_error(rounded[name], x) for name, x in expected.items()) * 2 if dtype.itemsize < 4 else 0.0
    within(actual, expected, Limits(*(max(limit, twice) for limit in LIMITS[dtype])))


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # of the interpreter
def test_gated_of_large_values_is_finite() -> None:
    tensors = [torch.tensor([[-1e4, -100.0, 100.0, 1e4]], device=DEVICE) for _ in range(2)]
    actual, expected = evaluate(tensors, "triton"), evaluate(tensors, "reference", torch.float64)
    assert all(x.isfinite().all() for x in actual.values())
    within(actual, expected, LIMITS[torch.float32])
