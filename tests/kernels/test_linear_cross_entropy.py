"""Cross-entropy of a linear map: values and gradients of `F.cross_entropy`, however many pieces it is computed in."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from tests.tolerances import TOLERANCE, compare

Reduction = Literal["mean", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "none")
NUM_TOKENS = 3 * 7
ROWS = [1, 4, 7, 20, 21, 4096]  # pieces of one token, with and without a remainder, one piece


class Problem:
    """Hidden `[3, 7, 5]`, weight `[11, 5]`, targets `[3, 7]`."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.hidden = torch.randn(3, 7, 5).to(dtype).requires_grad_()
        self.weight = torch.randn(11, 5).to(dtype).requires_grad_()
        self.targets = torch.randint(11, (3, 7))

    def gradients(self, loss: Tensor) -> dict[str, Tensor]:
        """By name, for a loss whose tokens weigh differently."""
        weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype).view(loss.shape)
        found = torch.autograd.grad(loss, (self.hidden, self.weight), weights)
        return dict(zip(("hidden", "weight"), found, strict=True))

    def expected(self, reduction: Reduction, dtype: torch.dtype = torch.float64) -> Tensor:
        logits = F.linear(self.hidden.to(dtype), self.weight.to(dtype)).flatten(0, 1)
        loss = F.cross_entropy(logits, self.targets.flatten(), reduction=reduction)
        return loss if reduction == "mean" else loss.view(3, 7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", ROWS)
def test_equals_cross_entropy(rows: int, reduction: Reduction, dtype: torch.dtype) -> None:
    problem = Problem(dtype)
    loss = linear_cross_entropy(problem.hidden, problem.weight, problem.targets, reduction=reduction, rows=rows)
    expected = problem.expected(reduction)
    assert loss.shape == (() if reduction == "mean" else (3, 7))
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    compare({"loss": loss}, {"loss": expected}, TOLERANCE[dtype].forward)
    gradients = problem.gradients(loss)
    assert {name: gradient.dtype for name, gradient in gradients.items()} == {"hidden": dtype, "weight": dtype}
    compare(gradients, problem.gradients(expected), TOLERANCE[dtype].gradient)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("rows", [4, 4096])
def test_under_autocast(rows: int, reduction: Reduction) -> None:
    """The products are rounded to bfloat16, the loss and the gradients of float32 leaves are float32."""
    problem = Problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(problem.hidden, problem.weight, problem.targets, reduction=reduction, rows=rows)
    assert loss.dtype == torch.float32
    gradients = problem.gradients(loss)
    assert {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    compare({"loss": loss}, {"loss": problem.expected(reduction)}, TOLERANCE[torch.bfloat16].forward)
    compare(gradients, problem.gradients(problem.expected(reduction)), TOLERANCE[torch.bfloat16].gradient)


def test_without_the_operation_of_newer_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem()
    arguments = (problem.hidden, problem.weight, problem.targets)
    newer = linear_cross_entropy(*arguments, rows=4)
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    older = linear_cross_entropy(*arguments, rows=4)
    compare({"loss": older}, {"loss": newer}, TOLERANCE[torch.float32].forward)
    compare(problem.gradients(older), problem.gradients(newer), TOLERANCE[torch.float32].gradient)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_logits_are_kept_for_the_backward_pass(reduction: Reduction, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(F, "linear_cross_entropy", raising=False)
    problem = Problem()

    def kept(rows: int) -> list[torch.Size]:
        shapes = []

        def pack(tensor: Tensor) -> Tensor:
            shapes.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            linear_cross_entropy(problem.hidden, problem.weight, problem.targets, reduction=reduction, rows=rows)
        return shapes

    assert torch.Size((NUM_TOKENS, 11)) in kept(rows=NUM_TOKENS)  # one piece needs no recomputation
    assert not [shape for shape in kept(rows=4) if shape[-1:] == (11,)]


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="this PyTorch has no loss in pieces")
def test_on_a_cpu_there_are_never_many_logits_at_once() -> None:
    hidden, weight = torch.randn(200, 3, requires_grad=True), torch.randn(70_000, 3, requires_grad=True)
    targets, sizes = torch.randint(70_000, (200,)), list[int]()

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **kwargs or {})
            sizes.append(max((x.numel() for x in tree_leaves(result) if isinstance(x, Tensor)), default=0))
            return result

    with Sizes():
        loss = linear_cross_entropy(hidden, weight, targets)
    expected = F.cross_entropy(F.linear(hidden, weight), targets)
    torch.testing.assert_close(loss, expected)
    compare(
        dict(enumerate(torch.autograd.grad(loss, (hidden, weight)))),  # type: ignore[arg-type]
        dict(enumerate(torch.autograd.grad(expected, (hidden, weight)))),  # type: ignore[arg-type]
        TOLERANCE[torch.float32].gradient,
    )
    assert max(sizes) < 200 * 70_000


def test_gradcheck() -> None:
    problem = Problem(torch.float64)
    for reduction in REDUCTIONS:
        assert torch.autograd.gradcheck(
            lambda h, w, r=reduction: linear_cross_entropy(h, w, problem.targets, reduction=r, rows=8),
            (problem.hidden, problem.weight),
        )
