"""Attention's Triton kernels against the dense float64 reference: outputs and gradients by name, however it is cut."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gecko_lab.kernels.attention import Pattern, attention
from gecko_lab.kernels.attention import triton as strips
from gecko_lab.kernels.attention.op import Backend
from gecko_lab.kernels.backends import is_interpreting
from tests.tolerances import TOLERANCE, compare, rms_error

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("y", "dq", "dk", "dv")


class Problem(NamedTuple):
    """`cached` keys stand before those of the `length` queries; tiles have as many as `size`, at least 16."""

    pattern: Pattern
    length: int
    cached: int = 0
    batch: int = 1
    heads: int = 1
    key_heads: int = 1
    key_dim: int = 8
    value_dim: int = 16
    size: int = 16
    documents: bool = False
    workspace_bytes: int = strips.WORKSPACE_BYTES

    def __str__(self) -> str:
        """Only what differs from the defaults."""
        changed = {k: v for k, v in self._asdict().items() if v != self._field_defaults.get(k)}
        return "-".join(f"{k}={v}" for k, v in changed.items())


PROBLEMS = [
    Problem("sliding_chunk", 37),
    Problem("sliding_chunk", 33, cached=9, documents=True, heads=2, size=11),
    Problem("sliding_chunk", 83, workspace_bytes=2**15),  # several strips, each completes the keys of earlier ones
    Problem("sliding_chunk", 20, cached=21, size=16, workspace_bytes=2**10),  # a strip of one tile, keys summed
    Problem("chunk", 37, cached=5, documents=True, key_dim=20, value_dim=40, workspace_bytes=2**13),
    Problem("window", 37, cached=5, documents=True, size=9, batch=2, workspace_bytes=2**13),
    Problem("full", 70, cached=3, heads=2, documents=True),
    Problem("full", 90, cached=60, workspace_bytes=2**10, value_dim=70),
]


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    dy: Tensor
    segments: Tensor | None


def make_inputs(problem: Problem, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def normal(length: int, heads: int, width: int) -> Tensor:
        x = torch.randn(problem.batch, length, heads, width, generator=generator, dtype=torch.float64)
        return x.to(DEVICE, dtype).requires_grad_()

    total = problem.cached + problem.length
    q = normal(problem.length, problem.heads, problem.key_dim)
    k = normal(total, problem.key_heads, problem.key_dim)
    v = normal(total, problem.key_heads, problem.value_dim)
    dy = normal(problem.length, problem.heads, problem.value_dim).detach()
    segments = None
    if problem.documents:
        starts = torch.rand(problem.batch, total, generator=generator) < 0.08
        segments = starts.long().cumsum(dim=1).to(DEVICE)
    return Inputs(q, k, v, dy, segments)


def evaluate(problem: Problem, inputs: Inputs, backend: Backend) -> dict[str, Tensor]:
    q, k, v, dy, segments = inputs
    query_segments = None if segments is None else segments[:, problem.cached :]
    y = attention(
        q,
        k,
        v,
        pattern=problem.pattern,
        size=problem.size,
        query_segments=query_segments,
        key_segments=segments,
        backend=backend,
    )
    return dict(zip(NAMES, (y, *torch.autograd.grad(y, (q, k, v), dy)), strict=True))


def expected_of(problem: Problem, inputs: Inputs) -> dict[str, Tensor]:
    return evaluate(problem, Inputs(*(x.double() for x in inputs[:4]), inputs.segments), "reference")


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_triton_against_reference(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "WORKSPACE_BYTES", problem.workspace_bytes)
    inputs = make_inputs(problem, torch.float32)
    actual, expected = evaluate(problem, inputs, "triton"), expected_of(problem, inputs)
    compare({"y": actual.pop("y")}, {"y": expected.pop("y")}, TOLERANCE[torch.float32].forward)
    compare(actual, expected, TOLERANCE[torch.float32].gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_errs_at_most_twice_as_much_as_the_dense_softmax(dtype: torch.dtype) -> None:
    """As the dense reference in the same precision, which rounds the weights and their gradients, too."""
    problem = Problem("sliding_chunk", 45, heads=2, documents=True, value_dim=32)
    inputs = make_inputs(problem, dtype)
    expected = expected_of(problem, inputs)
    actual, peer = evaluate(problem, inputs, "triton"), evaluate(problem, inputs, "reference")
    # Triton's interpreter truncates to bfloat16 where a GPU rounds, which doubles each error.
    limit = 4 if is_interpreting() and dtype == torch.bfloat16 else 2
    for name in NAMES:
        assert actual[name].dtype == dtype
        assert rms_error(actual[name], expected[name]) <= limit * rms_error(peer[name], expected[name]), name


def test_heads_that_share_keys() -> None:
    problem = Problem("sliding_chunk", 21, heads=4, key_heads=2, batch=2)
    inputs = make_inputs(problem, torch.float32)
    compare(evaluate(problem, inputs, "triton"), expected_of(problem, inputs), TOLERANCE[torch.float32].gradient)


def test_triton_repeats_itself_bit_for_bit_however_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem("sliding_chunk", 65, documents=True, batch=2)
    inputs = make_inputs(problem, torch.float32)
    first = evaluate(problem, inputs, "triton")
    monkeypatch.setattr(strips, "WORKSPACE_BYTES", 2**15)
    second = evaluate(problem, inputs, "triton")
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


def test_triton_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspace keeps to its budget at every length, and nothing but inputs, outputs and sums is saved."""
    sizes: list[int] = []
    make = strips._workspace

    def record(*arguments: object) -> Tensor:
        workspace = make(*arguments)  # type: ignore[arg-type]
        sizes.append(workspace.numel() * workspace.element_size())
        return workspace

    monkeypatch.setattr(strips, "_workspace", record)
    monkeypatch.setattr(strips, "WORKSPACE_BYTES", 2**16)
    problem = Problem("sliding_chunk", 130)
    q, k, v, dy, _ = make_inputs(problem, torch.float32)
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y = attention(q, k, v, pattern="sliding_chunk", size=16, backend="triton")
    y.backward(dy)
    assert len(sizes) == 3
    assert sizes[0] <= 2**16
    assert sum(sizes[1:]) <= 2**16
    assert sum(kept) == sum(x.numel() for x in (q, k, v, y)) + y.shape[0] * y.shape[1] * y.shape[2]


def test_fakes() -> None:
    problem = Problem("sliding_chunk", 18, documents=True)
    q, k, v, _, segments = make_inputs(problem, torch.float32)
    operator = torch.ops.gecko_lab.attention_strips.default
    torch.library.opcheck(
        operator, (q, k, v, segments, "sliding_chunk", 16), test_utils=("test_schema", "test_faketensor")
    )
    torch.library.opcheck(
        operator,
        (q, k, v, None, "sliding_chunk", 16),
        test_utils=("test_autograd_registration", "test_aot_dispatch_static"),
    )
