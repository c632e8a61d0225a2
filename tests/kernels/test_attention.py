"""Attention: golden vectors, blocks against the dense reference for every pattern, gradients by name, errors."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gecko_lab.kernels.attention import Pattern, attention
from gecko_lab.kernels.attention.op import Backend
from gecko_lab.kernels.attention.pattern import visible
from tests.tolerances import GOLDEN, TOLERANCE, compare, load_golden

PATTERNS: tuple[Pattern, ...] = ("sliding_chunk", "chunk", "window", "full")
BACKENDS: tuple[Backend, ...] = ("torch", "reference")


class Shape(NamedTuple):
    """A problem: `cached` keys stand before those of the `length` queries."""

    batch: int = 2
    length: int = 23
    cached: int = 0
    heads: int = 2
    key_heads: int = 2
    key_dim: int = 4
    value_dim: int = 6
    size: int = 5
    documents: bool = False

    def __str__(self) -> str:
        """Only what differs from the defaults."""
        changed = {k: v for k, v in self._asdict().items() if v != self._field_defaults[k]}
        return "-".join(f"{k}={v}" for k, v in changed.items()) or "plain"


SHAPES = [
    Shape(),
    Shape(length=1),
    Shape(length=5),
    Shape(length=4),
    Shape(length=6),
    Shape(length=20),
    Shape(size=1, length=4),
    Shape(size=64),
    Shape(length=13, cached=5),
    Shape(length=13, cached=7),
    Shape(length=1, cached=9),
    Shape(length=3, cached=6),
    Shape(length=11, cached=9),
    Shape(length=17, cached=13, key_heads=1, heads=3),
    Shape(key_heads=2, heads=4, documents=True),
    Shape(key_dim=3, value_dim=1, batch=1),
    Shape(documents=True),
    Shape(documents=True, length=1, cached=8),
    Shape(documents=True, length=18, cached=7, batch=3),
    Shape(documents=True, length=20, cached=5),
]


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    query_segments: Tensor | None
    key_segments: Tensor | None


def make_inputs(shape: Shape, dtype: torch.dtype) -> Inputs:
    generator = torch.Generator().manual_seed(1)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    total = shape.cached + shape.length
    q = normal(shape.batch, shape.length, shape.heads, shape.key_dim)
    k = normal(shape.batch, total, shape.key_heads, shape.key_dim)
    v = normal(shape.batch, total, shape.key_heads, shape.value_dim)
    if not shape.documents:
        return Inputs(q, k, v, None, None)
    segments = (torch.rand(shape.batch, total, generator=generator) < 0.2).long().cumsum(dim=1)
    return Inputs(q, k, v, segments[:, shape.cached :], segments)


def evaluate(inputs: Inputs, pattern: Pattern, size: int, backend: Backend) -> tuple[Tensor, dict[str, Tensor]]:
    """Outputs, and gradients by name for a fixed random output gradient."""
    q, k, v, query_segments, key_segments = inputs
    y = attention(
        q, k, v, pattern=pattern, size=size, query_segments=query_segments, key_segments=key_segments, backend=backend
    )
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(y.dtype)
    gradients = torch.autograd.grad(y, (q, k, v), dy)
    return y, dict(zip(("dq", "dk", "dv"), gradients, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["single", "documents"])
def test_golden(name: str, backend: Backend) -> None:
    golden = load_golden(f"sliding_chunk_attention_{name}")
    segments = golden["document_starts"].long().cumsum(dim=1) if golden["document_starts"].any() else None
    assert (segments is None) == (name == "single")
    q, k, v = (golden[key].requires_grad_() for key in ("q", "k", "v"))
    y = attention(
        q,
        k,
        v,
        pattern="sliding_chunk",
        size=int(golden["chunk_size"]),
        query_segments=segments,
        key_segments=segments,
        backend=backend,
    )
    y.backward(golden["dy"])
    actual = {"y": y, "dq": q.grad, "dk": k.grad, "dv": v.grad}
    compare(actual, {key: golden[key] for key in actual}, GOLDEN)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_against_reference(shape: Shape, pattern: Pattern, dtype: torch.dtype) -> None:
    y, gradients = evaluate(make_inputs(shape, dtype), pattern, shape.size, "torch")
    wide = make_inputs(shape, dtype)
    wide = Inputs(*(x.double() for x in wide[:3]), *wide[3:])
    expected_y, expected_gradients = evaluate(wide, pattern, shape.size, "reference")
    assert y.dtype == dtype
    compare({"y": y}, {"y": expected_y}, TOLERANCE[dtype].forward)
    compare(gradients, expected_gradients, TOLERANCE[dtype].gradient)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bfloat16(pattern: Pattern) -> None:
    shape = Shape(key_heads=1, documents=True)
    y, gradients = evaluate(make_inputs(shape, torch.bfloat16), pattern, shape.size, "torch")
    wide = make_inputs(shape, torch.bfloat16)
    wide = Inputs(*(x.double() for x in wide[:3]), *wide[3:])
    expected_y, expected_gradients = evaluate(wide, pattern, shape.size, "reference")
    assert y.dtype == torch.bfloat16
    compare({"y": y}, {"y": expected_y}, TOLERANCE[torch.bfloat16].forward)
    compare(gradients, expected_gradients, TOLERANCE[torch.bfloat16].gradient)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("documents", [False, True])
def test_gradcheck(pattern: Pattern, documents: bool) -> None:
    shape = Shape(1, 4, 3, 2, 1, 2, 1, size=2, documents=documents)
    q, k, v, query_segments, key_segments = make_inputs(shape, torch.float64)
    if key_segments is not None:
        key_segments = torch.tensor([[0, 0, 1, 1, 1, 2, 2]])
        query_segments = key_segments[:, 3:]

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, pattern=pattern, size=2, query_segments=query_segments, key_segments=key_segments)

    assert torch.autograd.gradcheck(run, (q, k, v))


VISIBLE_FROM_7 = {"sliding_chunk": range(3, 8), "chunk": range(6, 8), "window": range(5, 8), "full": range(8)}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_keys_that_a_query_sees(pattern: Pattern, backend: Backend) -> None:
    """The query at position 7, chunks or window of 3: values that mark their place come back where they are seen."""
    v = torch.eye(9)[None, :, None]
    y = attention(torch.zeros(1, 9, 1, 2), torch.zeros(1, 9, 1, 2), v, pattern=pattern, size=3, backend=backend)
    seen = (y[0, 7, 0] > 0).nonzero().flatten().tolist()
    assert seen == list(VISIBLE_FROM_7[pattern])
    keys = torch.arange(9)
    assert visible(keys, keys, pattern, 3)[7].nonzero().flatten().tolist() == seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_keeps_the_mean(backend: Backend) -> None:
    q, k, v = torch.randn(64, 12, 4, 2), torch.randn(64, 12, 4, 2), torch.ones(64, 12, 4, 1)
    y = attention(q, k, v, pattern="sliding_chunk", size=4, dropout=0.25, backend=backend)
    assert not torch.allclose(y, torch.ones_like(y), atol=0.1)
    assert abs(float(y.mean()) - 1) < 0.05


def test_unknown_backend_and_pattern_and_heads_are_refused() -> None:
    x = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ValueError, match="auto, torch and reference, not 'triton'"):
        attention(x, x, x, pattern="chunk", size=2, backend="triton")  # type: ignore[arg-type]
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="sliding_chunk, chunk, window, full, got 'local'"):
            attention(x, x, x, pattern="local", size=2, backend=backend)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 query heads do not divide among 2 key heads"):
        attention(torch.zeros(1, 4, 3, 2), x, x, pattern="chunk", size=2)
