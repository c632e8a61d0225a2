"""The cases for a GPU: what can be tried of them without one."""

import math

import pytest
import torch

from gecko_lab.bench.gate import evaluate, relative_error
from gecko_lab.bench.large_cases import large_case, large_case_names
from gecko_lab.bench.memory import load_problems
from gecko_lab.kernels.attention.inputs import Shape
from gecko_lab.kernels.case import Contender
from tests.tolerances import TOLERANCE


@pytest.mark.parametrize("name", large_case_names())
def test_large_case_is_of_7b_shapes(name: str) -> None:
    case, problems = load_problems(name, "7b")
    for problem in problems:
        assert [one.name for one in case.contenders(problem)], "nobody"
        sizes = [value for value in problem.shape._asdict().values() if not isinstance(value, bool) and value > 0]
        assert math.prod(sizes) >= 32_768 * 1024
    inputs = case.inputs(case.check_shape, torch.bfloat16)
    assert all(x.numel() < 10**7 for x in inputs.values()), "the check compares in float64"


@pytest.mark.parametrize("name", ["cema", "timestep_norm"])
def test_large_case_times_what_the_folder_does(name: str) -> None:
    """The PyTorch path beside Triton is the right one, with the right arguments."""
    case = large_case(name)
    (problem,) = case.problems["full"]
    assert case.ours.name == "Triton"
    (pytorch,) = (one for one in problem.alternatives if one.name == "torch")
    inputs = case.inputs(case.check_shape, torch.float32)
    expected = evaluate(case.reference, case, inputs)
    for key, value in evaluate(pytorch, case, inputs).items():
        assert relative_error(value, expected[key]) <= TOLERANCE[torch.float32].gradient


@pytest.mark.parametrize("shape", [Shape(2, 75, 3, 8, 600, 32), Shape(1, 31, 2, 16, 16, 32), Shape(1, 64, 1, 8, 8, 32)])
def test_attention_by_chunks_is_sliding_chunk_attention(shape: Shape) -> None:
    case = large_case("attention")
    (problem,) = case.problems["full"]
    by_chunks: Contender[Shape] = next(one for one in problem.alternatives if one.name == "SDPA by chunks")
    inputs = case.inputs(shape, torch.float32)
    expected, actual = (one.run(inputs, shape) for one in (case.reference, by_chunks))
    assert relative_error(actual, expected) <= TOLERANCE[torch.float32].forward
