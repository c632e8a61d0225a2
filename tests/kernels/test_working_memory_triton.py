"""The Triton kernels of the working memory: interpreted where there is no GPU, compiled where there is one."""

from __future__ import annotations

import pytest
import torch

from gecko_lab.kernels.working_memory import chunk_products, whole_chunks, working_memory
from gecko_lab.kernels.working_memory.inputs import Inputs, Shape, make_inputs
from tests.kernels.test_working_memory import assert_close, double, evaluate, floats, relative_rms

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPE = Shape(B=2, L=27, H=1, S=5, V=7, chunk_size=8)
# At a chunk's start and inside chunks that follow each other; several in one chunk and at a chunk's last timestep.
DOCUMENTS = ((0, 11, 16), (0, 3, 5, 23))
CASES = {
    "one document": (SHAPE, None),
    "documents": (SHAPE, DOCUMENTS),
    "one chunk": (SHAPE._replace(L=8), ((0, 3), (0, 7))),
    "two chunks": (SHAPE._replace(L=16), None),
    "shorter than a chunk": (SHAPE._replace(L=5), ((0, 2), ())),
    "chunks of one": (SHAPE._replace(L=6, chunk_size=1), ((), (0, 4))),
    "several tiles": (Shape(B=1, L=140, H=2, S=36, V=36, chunk_size=70), ((0, 30, 100),)),
}


def draw(shape: Shape, document_starts=None, **options) -> Inputs:
    return make_inputs(shape, document_starts=document_starts, device=DEVICE, **options)


@pytest.mark.parametrize("case", CASES)
def test_matches_reference(case: str) -> None:
    shape, document_starts = CASES[case]
    inputs = draw(shape, document_starts)
    expected = evaluate(double(inputs), backend="reference", chunk_size=shape.chunk_size)
    assert_close(evaluate(inputs, backend="triton", chunk_size=shape.chunk_size), expected)


@pytest.mark.parametrize("document_starts", [None, DOCUMENTS])
def test_matches_reference_without_the_delta_rule(document_starts) -> None:
    inputs = draw(SHAPE, document_starts)
    options = {"chunk_size": 8, "delta_rule": False}
    expected = evaluate(double(inputs), backend="reference", **options)
    assert_close(evaluate(inputs, backend="triton", **options), expected)


@pytest.mark.parametrize("document_starts", [None, DOCUMENTS])
def test_split_is_the_whole(document_starts) -> None:
    """Gradients flow through the states between the pieces: a head, whole chunks and a tail."""
    inputs = draw(SHAPE, document_starts)
    expected = evaluate(double(inputs), backend="reference", chunk_size=8)
    assert_close(evaluate(inputs, [3, 22, 2], chunk_size=8, backend="triton"), expected)


@pytest.mark.parametrize("document_starts", [None, DOCUMENTS])
def test_gradients_of_the_output_alone(document_starts) -> None:
    """Nothing reads the last two chunks: the path that skips them."""
    inputs = draw(SHAPE._replace(L=32), document_starts)
    expected = evaluate(double(inputs), weight_state=False, chunk_size=8, backend="reference")
    actual = evaluate(inputs, weight_state=False, chunk_size=8, backend="triton")
    assert_close(actual, expected)
    assert not actual[2]["dv"][:, 16:].any()
    assert actual[2]["dv"][:, :16].any()


@pytest.mark.parametrize(("dtype", "ulp"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision(dtype: torch.dtype, ulp: float) -> None:
    """Operands of products are rounded, sums are not: near the torch backend, which rounds its results alone."""
    if dtype == torch.bfloat16 and DEVICE == "cpu":
        ulp *= 4  # the interpreter truncates
    shape = Shape(B=1, L=48, H=1, S=24, V=32, chunk_size=8)
    inputs = draw(shape, ((0, 21),), dtype=dtype)
    expected, rounded, actual = (
        evaluate(x, chunk_size=8, backend=backend, weight_state=False)
        for x, backend in ((double(inputs), "reference"), (inputs, "torch"), (inputs, "triton"))
    )
    assert actual[0].dtype == dtype
    assert all(x.dtype == torch.float32 for x in floats(actual[1]).values())
    assert relative_rms(actual[0], expected[0]) <= max(2 * relative_rms(rounded[0], expected[0]), 1.25 * ulp)
    for name, x in expected[2].items():
        assert actual[2][name].dtype == dtype
        assert relative_rms(actual[2][name], x) <= max(2 * relative_rms(rounded[2][name], x), 5 * ulp), name


@pytest.mark.filterwarnings(
    "ignore:.*encountered in:RuntimeWarning"
)  # of the interpreter, about what another one holds
@pytest.mark.parametrize("content", [torch.inf, torch.nan])
def test_no_leak_between_documents(content: float) -> None:
    """Bit for bit: outputs and gradients of a document do not know what another one holds."""
    inputs = draw(SHAPE._replace(B=1), ((0, 6, 13),))
    options = {"pieces": [19, 8], "chunk_size": 4, "weight_state": False, "backend": "triton"}
    y, _, gradients = evaluate(inputs, **options)
    other = inputs.segments != 2
    contaminated = Inputs(
        *(x.masked_fill(~other[..., None, None], content) for x in inputs[:3]), inputs.segments, inputs.dy
    )
    y_, _, gradients_ = evaluate(contaminated, **options)
    assert torch.equal(y_[other], y[other])
    assert y_[other].isfinite().all()
    for name, x in gradients.items():
        assert torch.equal(gradients_[name][other], x[other]), name


def test_deterministic() -> None:
    inputs = draw(SHAPE, DOCUMENTS)
    first, second = (evaluate(inputs, chunk_size=8, backend="triton") for _ in range(2))
    assert torch.equal(first[0], second[0])
    for name, x in first[2].items():
        assert torch.equal(x, second[2][name]), name


def test_strides_of_the_inputs() -> None:
    """Slices of one projection are read where they lie; a last dim that is not dense is copied."""
    q, k, v = draw(SHAPE)[:3]
    expected, _ = working_memory(q, k, v, chunk_size=8, backend="triton")
    q_, k_, v_ = torch.cat([q, k, v], dim=-1).split([5, 5, 7], dim=-1)
    assert not k_.is_contiguous()
    assert torch.equal(working_memory(q_, k_, v_, chunk_size=8, backend="triton")[0], expected)
    v_ = v.mT.contiguous().mT
    assert torch.equal(working_memory(q, k, v_, chunk_size=8, backend="triton")[0], expected)


def test_opcheck() -> None:
    """Schema, fake tensors and autograd registration of the custom ops, as torch.compile needs them."""
    inputs = draw(SHAPE._replace(B=1, L=8), ((0, 3),))
    q, k, v = (x.unflatten(1, (2, 4)).requires_grad_() for x in inputs[:3])
    segments = inputs.segments.unflatten(1, (2, 4))
    keep = segments == segments[:, :, -1:]
    memory = torch.randn(1, 1, 5, 7, device=DEVICE, requires_grad=True)
    log_norm = torch.randn(1, 1, 5, device=DEVICE, requires_grad=True)
    same = torch.tensor([[False, True]], device=DEVICE)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    arguments = (q, k, v, keep, keep, same, memory, memory * 2, log_norm, 0, True, "triton")
    torch.library.opcheck(whole_chunks.chunks.opaque, arguments, test_utils=tests)
    torch.library.opcheck(chunk_products.sums.opaque, (k, v, keep, True, torch.float32, "triton"), test_utils=tests)
    torch.library.opcheck(
        chunk_products.read.opaque, (q, memory[:, None], keep, torch.float32, "triton"), test_utils=tests
    )


@pytest.mark.parametrize(
    ("dtype", "key_dim", "message"),
    [
        (torch.float64, 5, "float64 is for the backends torch and reference"),
        (torch.float32, 513, "up to 512 keys a head"),
    ],
)
def test_errors(dtype: torch.dtype, key_dim: int, message: str) -> None:
    q, k, v = draw(SHAPE._replace(S=key_dim), dtype=dtype)[:3]
    with pytest.raises(ValueError, match=message):
        working_memory(q, k, v, chunk_size=8, backend="triton")
