"""Operations: an autograd function where nobody looks on, one opaque operation to everybody who does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from gecko_lab.kernels.operation import Operation, operation


@operation("gecko_lab_tests::scaled")
def scaled(x: Tensor, factor: Tensor | None, exponent: int) -> tuple[Tensor, Tensor]:
    """`x^exponent · factor`, and how many elements that is."""
    y = x**exponent
    return y if factor is None else y * factor, torch.tensor(x.numel())


@scaled.register_fake
def _(x: Tensor, factor: Tensor | None, exponent: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty((), dtype=torch.int64)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, factor, ctx.exponent = inputs
    ctx.save_for_backward(x, factor)


def _gradients(ctx: Any, dy: Tensor, _dcount: Tensor) -> tuple[Tensor | None, ...]:
    x, factor = ctx.saved_tensors
    dx = dy * ctx.exponent * x ** (ctx.exponent - 1)
    return (dx, None, None) if factor is None else (dx * factor, dy * x**ctx.exponent, None)


scaled.register_autograd(_gradients, setup_context=_save)


@operation("gecko_lab_tests::halves")
def halves(x: Tensor) -> list[Tensor]:
    """Both halves of a vector."""
    return [half.clone() for half in x.chunk(2)]


@halves.register_fake
def _(x: Tensor) -> list[Tensor]:
    return [torch.empty_like(half) for half in x.chunk(2)]


halves.register_autograd(lambda ctx, gradients: torch.cat(gradients), setup_context=lambda ctx, inputs, output: None)


class Names(TorchDispatchMode):
    """Writes down what is called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


def gradients(call: Callable[..., Any]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, factor = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), torch.tensor([4.0, 5.0, 6.0], requires_grad=True)
    y, count = call(x, factor, 2)
    assert y.requires_grad
    assert not count.requires_grad
    return y.detach(), count, *torch.autograd.grad(y.sum(), (x, factor))


def test_both_ways_are_the_same() -> None:
    for direct, opaque in zip(gradients(scaled), gradients(scaled.opaque), strict=True):
        assert torch.equal(direct, opaque)
    x = torch.arange(4.0, requires_grad=True)
    direct, opaque = halves(x), halves.opaque(x)
    assert isinstance(direct, list)
    for one, other in zip(direct, opaque, strict=True):
        assert torch.equal(one, other)
    (dx,) = torch.autograd.grad(direct[0].sum() + 2 * direct[1].sum(), x)
    assert dx.tolist() == [1.0, 1.0, 2.0, 2.0]


def test_one_operation_to_a_mode_and_in_a_trace() -> None:
    x = torch.ones(3, requires_grad=True)
    with Names() as seen:
        scaled(x, None, 2)
    assert seen.names == ["gecko_lab_tests::scaled"]
    with torch.profiler.profile() as profile:
        scaled(x, None, 2)
    assert "gecko_lab_tests::scaled" in {event.name for event in profile.events()}


def test_nothing_is_computed_of_fake_and_meta_tensors() -> None:
    def refuse(x: Tensor) -> Tensor:
        raise AssertionError

    unreal = Operation(refuse, "gecko_lab_tests::unreal", "(Tensor x) -> Tensor")
    unreal.register_fake(torch.empty_like)
    with FakeTensorMode():
        assert unreal(torch.ones(3)).shape == (3,)
    assert unreal(torch.ones(3, device="meta")).is_meta


def test_compiles_as_one_node() -> None:
    graphs: list[list[str]] = []

    def keep(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
        return module.forward

    x = torch.ones(3)
    y = torch.compile(lambda x: scaled(x, None, 2)[0] + 1, backend=keep, fullgraph=True)(x)
    assert y.tolist() == [2.0, 2.0, 2.0]
    assert sum("gecko_lab_tests.scaled" in name for name in graphs[0]) == 1


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(context: Callable[[], Any]) -> None:
    x = torch.ones(3, requires_grad=True)
    with context():
        y, _ = scaled(x, None, 2)
    assert not y.requires_grad


@operation("gecko_lab_tests::squared_gradient")
def squared_gradient(dy: Tensor, x: Tensor) -> Tensor:
    return 2 * dy * x


@operation("gecko_lab_tests::squared")
def squared(x: Tensor) -> Tensor:
    return x * x


squared_gradient.register_fake(lambda dy, x: torch.empty_like(x))
squared.register_fake(torch.empty_like)
squared.register_autograd(
    lambda ctx, dy: squared_gradient(dy, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


def test_second_derivatives_are_refused_not_left_out() -> None:
    """Those of an operation whose backward pass is one without derivatives of its own, as ours are."""
    x = torch.ones(3, requires_grad=True)
    (dx,) = torch.autograd.grad(squared(x).sum(), x, create_graph=True)
    assert dx.tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(RuntimeError, match="squared_gradient"):
        dx.sum().backward()
