"""Attention: golden vectors, tiles and blocks against the dense reference, gradients by name, memory, errors."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from gecko_lab.kernels.attention import Pattern, attention, tiles
from gecko_lab.kernels.attention import torch as blocks
from gecko_lab.kernels.attention.op import Backend
from gecko_lab.kernels.attention.pattern import document_bounds, first_visible, last_visible, visible
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


def widened(inputs: Inputs) -> Inputs:
    return Inputs(*(x.double() for x in inputs[:3]), *inputs[3:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_tiles_against_reference(
    shape: Shape, pattern: Pattern, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles of three queries, which divide neither chunks nor pieces."""
    monkeypatch.setattr(tiles, "TILE", 3)
    y, gradients = evaluate(make_inputs(shape, dtype), pattern, shape.size, "torch")
    expected_y, expected_gradients = evaluate(widened(make_inputs(shape, dtype)), pattern, shape.size, "reference")
    assert y.dtype == dtype
    compare({"y": y}, {"y": expected_y}, TOLERANCE[dtype].forward)
    compare(gradients, expected_gradients, TOLERANCE[dtype].gradient)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_blocks_against_reference(shape: Shape, pattern: Pattern) -> None:
    q, k, v, query_segments, key_segments = make_inputs(shape, torch.float32)
    y = blocks.attention(q, k, v, pattern, shape.size, query_segments, key_segments, 0.0)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(y.dtype)
    gradients = dict(zip(("dq", "dk", "dv"), torch.autograd.grad(y, (q, k, v), dy), strict=True))
    wide = widened(make_inputs(shape, torch.float32))
    expected_y, expected_gradients = evaluate(wide, pattern, shape.size, "reference")
    compare({"y": y}, {"y": expected_y}, TOLERANCE[torch.float32].forward)
    compare(gradients, expected_gradients, TOLERANCE[torch.float32].gradient)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("length", [256, 1024])
def test_nothing_is_kept_for_the_backward_pass_but_inputs_and_outputs(pattern: Pattern, length: int) -> None:
    q, k, v = (torch.randn(1, length, 2, width, requires_grad=True) for width in (4, 4, 8))
    kept = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        y = attention(q, k, v, pattern=pattern, size=128)
    assert 0 < sum(kept) <= sum(x.numel() for x in (q, k, v, y))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_fakes(pattern: Pattern) -> None:
    q, k, v, _, segments = make_inputs(Shape(documents=True), torch.float32)
    torch.library.opcheck(torch.ops.gecko_lab.attention_tiles.default, (q, k, v, segments, pattern, 5))


def test_gradients_that_are_expanded() -> None:
    q, k, v, _, _ = make_inputs(Shape(), torch.float32)
    gradients = [
        torch.autograd.grad(attention(q, k, v, pattern="sliding_chunk", size=5, backend=backend).sum(), (q, k, v))
        for backend in BACKENDS
    ]
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [1, 3, 4])
def test_first_and_last_visible_agree(pattern: Pattern, size: int) -> None:
    keys = torch.arange(14)
    seen = visible(keys, keys, pattern, size)
    for position in range(14):
        assert first_visible(position, pattern, size) == int(seen[position].nonzero().min())
        assert last_visible(position, 14, pattern, size) == int(seen[:, position].nonzero().max())


def test_document_bounds() -> None:
    first, last = document_bounds(torch.tensor([[4, 4, 5, 7, 7], [0, 0, 0, 0, 0]]))
    assert first.tolist() == [[0, 0, 2, 3, 3], [0, 0, 0, 0, 0]]
    assert last.tolist() == [[1, 1, 2, 4, 4], [4, 4, 4, 4, 4]]


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(pattern: Pattern, dtype: torch.dtype) -> None:
    shape = Shape(key_heads=1, documents=True)
    y, gradients = evaluate(make_inputs(shape, dtype), pattern, shape.size, "torch")
    expected_y, expected_gradients = evaluate(widened(make_inputs(shape, dtype)), pattern, shape.size, "reference")
    assert y.dtype == dtype
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
    with pytest.raises(ValueError, match="no backend 'cuda': choose one of auto, triton, torch, reference"):
        attention(x, x, x, pattern="chunk", size=2, backend="cuda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="triton does not drop weights"):
        attention(x, x, x, pattern="chunk", size=2, dropout=0.1, backend="triton")
    for backend in BACKENDS:
        with pytest.raises(ValueError, match="sliding_chunk, chunk, window, full, got 'local'"):
            attention(x, x, x, pattern="local", size=2, backend=backend)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="3 query heads do not divide among 2 key heads"):
        attention(torch.zeros(1, 4, 3, 2), x, x, pattern="chunk", size=2)
