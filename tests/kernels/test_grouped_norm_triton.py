"""The backend triton of `grouped_norm`: interpreted on CPU, compiled where there is a GPU."""

import pytest
import torch

from gecko_lab.kernels.grouped_norm.inputs import Shape
from gecko_lab.kernels.grouped_norm.op import LARGEST_GROUP, grouped_norm
from tests.kernels.test_grouped_norm import LIMITS, evaluate, tensors_of, within
from tests.tolerances import Limits, compare, rms_error

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = [
    Shape(batch, length, num_groups * group_size, num_groups, centred)
    for batch, length, num_groups, group_size in [(1, 1, 1, 5), (2, 19, 3, 6), (1, 3, 1, 1030), (1, 40, 2, 64)]
    for centred in (False, True)
]


@pytest.mark.parametrize("affine", [True, False], ids=["affine", "plain"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grouped_norm_against_the_float64_reference(shape: Shape, dtype: torch.dtype, affine: bool) -> None:
    tensors = [x.to(DEVICE) for x in tensors_of(shape, dtype, affine)]
    actual, rounded = evaluate(tensors, shape, "triton"), evaluate(tensors, shape, "torch")
    expected = evaluate(tensors, shape, "reference", torch.float64)
    assert [x.dtype for x in actual.values()] == [x.dtype for x in rounded.values()]
    twice = max(rms_error(rounded[name], x) for name, x in expected.items()) * 2 if dtype.itemsize < 4 else 0.0
    within(actual, expected, Limits(*(max(limit, twice) for limit in LIMITS[dtype])))


@pytest.mark.parametrize("programs", [1, 7])
def test_grouped_norm_in_programs_of_several_tiles(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at lengths that the interpreter would take too long for; twice the same bits."""
    for direction in ("FORWARD", "BACKWARD"):
        monkeypatch.setattr(f"gecko_lab.kernels.grouped_norm.triton.{direction}_PROGRAMS", programs)
    shape = Shape(1, 45, 200, 2, True)
    tensors = [x.to(DEVICE) for x in tensors_of(shape)]
    actual, again = evaluate(tensors, shape, "triton"), evaluate(tensors, shape, "triton")
    within(actual, evaluate(tensors, shape, "reference", torch.float64), LIMITS[torch.float32])
    compare(again, actual, 0.0)


def test_groups_too_large_for_registers_are_refused_by_name() -> None:
    x = torch.zeros(2, LARGEST_GROUP + 1, device=DEVICE)
    with pytest.raises(ValueError, match="grouped_norm has no backend 'triton'"):
        grouped_norm(x, centred=False, backend="triton")
    assert not grouped_norm(x, centred=False).any()
