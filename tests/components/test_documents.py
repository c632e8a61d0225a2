"""What may flow where, over the whole catalogue: nothing from the future, nothing from one document into another."""

import pytest
import torch

from tests.components.catalogue import CASES, STREAMING, C, Case, Inputs, every, run_in_pieces, starts_at
from tests.tolerances import TOLERANCE, compare

LENGTH = 5 * C + 2
DOCUMENTS = [0, 6, 13, 5 * C]  # three that begin inside chunks, one that begins with a chunk


def replaced(inputs: Inputs, begin: int, end: int, value: float) -> Inputs:
    """`inputs` with other content at the timesteps `[begin, end)`: noise of this size, or not-a-number."""
    other = {}
    for i, (name, x) in enumerate(inputs.items()):
        noise = torch.randn(x[:, begin:end].shape, generator=torch.Generator().manual_seed(i))
        other[name] = torch.cat((x[:, :begin], noise * value, x[:, end:]), dim=1)
    return other


def contents(case: Case) -> list[float]:
    """Sizes of other content. A softmax multiplies masked values by zero, which keeps out all but NaN and infinity."""
    return [1.0, 1e4] if case.attends else [1.0, 1e4, float("nan")]


@every(CASES)
@pytest.mark.parametrize("documents", [False, True])
def test_the_future_changes_nothing(case: Case, documents: bool) -> None:
    module, inputs = case.trained(), case.inputs(LENGTH)
    starts = starts_at(LENGTH, [3, 9], [C]) if documents else None
    expected, _ = run_in_pieces(module, inputs, [LENGTH], starts)
    for now in (1, C - 1, C, 2 * C + 3, 4 * C, LENGTH - 1):
        for value in (1.0, 1e4):
            actual, _ = run_in_pieces(module, replaced(inputs, now, LENGTH, value), [LENGTH], starts)
            assert torch.equal(actual[:, :now], expected[:, :now]), (now, value)
    assert not torch.equal(actual[:, -1], expected[:, -1])


@every(STREAMING)
@pytest.mark.parametrize("pieces", [[LENGTH], [1, C, 2, C + 1, LENGTH - 2 * C - 4]], ids=["whole", "pieces"])
def test_another_documents_content_changes_nothing(case: Case, pieces: list[int]) -> None:
    """Bit for bit, whole and in pieces."""
    module, inputs = case.trained(), case.inputs(LENGTH)
    starts = starts_at(LENGTH, DOCUMENTS, DOCUMENTS)
    expected, _ = run_in_pieces(module, inputs, pieces, starts)
    for begin, end in zip(DOCUMENTS, [*DOCUMENTS[1:], LENGTH], strict=True):
        for value in contents(case):
            actual, _ = run_in_pieces(module, replaced(inputs, begin, end, value), pieces, starts)
            assert torch.equal(actual[:, :begin], expected[:, :begin]), (begin, value)
            assert torch.equal(actual[:, end:], expected[:, end:]), (begin, value)


@every(STREAMING)
def test_no_gradient_reaches_another_document(case: Case) -> None:
    module = case.trained()
    inputs = {name: x.requires_grad_() for name, x in case.inputs(LENGTH).items()}
    y, _ = run_in_pieces(module, inputs, [7, LENGTH - 7], starts_at(LENGTH, DOCUMENTS, DOCUMENTS))
    begin, end = DOCUMENTS[1:3]
    gradients = torch.autograd.grad(y[:, begin:end].square().sum(), list(inputs.values()))
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert not gradient[:, :begin].any()
        assert not gradient[:, end:].any()


def separately(case: Case, lengths: list[int]) -> None:
    """Compare documents packed into one stream with the same documents as streams of their own."""
    module, length = case.trained(), sum(lengths)
    inputs = case.inputs(length, batch=1)
    begins = [sum(lengths[:i]) for i in range(len(lengths))]
    packed, _ = run_in_pieces(module, inputs, [length], starts_at(length, begins))
    alone = []
    for begin, count in zip(begins, lengths, strict=True):
        document = {name: x[:, begin : begin + count] for name, x in inputs.items()}
        alone.append(run_in_pieces(module, document, [count])[0])
    compare({"y": packed}, {"y": torch.cat(alone, dim=1)}, TOLERANCE[torch.float32].forward)


@every(STREAMING)
@pytest.mark.parametrize("lengths", [[C, 2 * C, 5 * C, 3], [3 * C, 4 * C + 1]], ids=str)
def test_packed_documents_that_begin_with_chunks_are_as_alone(case: Case, lengths: list[int]) -> None:
    separately(case, lengths)


@every([case for case in STREAMING if not case.chunked])
@pytest.mark.parametrize("lengths", [[1, 1, 2 * C + 3, C - 1, C], [C + 1, 4 * C + 2]], ids=str)
def test_packed_documents_are_as_alone(case: Case, lengths: list[int]) -> None:
    """Where nothing depends on chunks, wherever documents begin."""
    separately(case, lengths)


@every([case for case in STREAMING if case.slot == "memory"])
def test_memory_reads_nothing_in_the_first_two_chunks_of_a_document(case: Case) -> None:
    y, _ = run_in_pieces(case.trained(), case.inputs(LENGTH, batch=1), [LENGTH], starts_at(LENGTH, [0, C + 1]))
    unread = slice(0, 3 * C)  # the document from C + 1 on is written with chunk 1, which chunk 3 reads first
    assert not y[:, unread].any()
    assert y[:, unread.stop :].abs().amin(dim=(0, 2, 3)).all()
