"""Operations that the rest of PyTorch sees as one: `torch.library.custom_op`, without its price where nobody looks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class Operation:
    """An operation opaque to `torch.compile`, checkpointing policies, fake and meta tensors, profilers and the like.

    Where none of them is at work it is an ordinary autograd function: the dispatcher and the wrappers of `custom_op`
    cost 0.2 to 0.4 ms a call between the matrix products of a training step on CPU, whose other threads wait.

    Args:
        function: of tensors, lists of them and plain values; returns new tensors, one or a tuple or list of them.
        name: `namespace::name`.
        schema: its signature for the dispatcher; by default what the annotations say.
    """

    def __init__(self, function: Callable[..., Any], name: str, schema: str | None = None) -> None:
        self.__doc__ = function.__doc__
        self._function = function
        self._differentiable: type[torch.autograd.Function] | None = None
        self._returns_list = False
        self.opaque = torch.library.custom_op(name, function, mutates_args=(), schema=schema)
        self.register_fake = self.opaque.register_fake

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """As that of `torch.library.CustomOpDef`, for an operation none of whose arguments is a list of tensors."""
        self.opaque.register_autograd(backward, setup_context=setup_context)
        function, operation = self._function, self

        def differentiable_forward(ctx: Any, *arguments: Any) -> Any:
            output = function(*arguments)
            setup_context(ctx, arguments, output)
            operation._returns_list = isinstance(output, list)
            return tuple(output) if operation._returns_list else output

        def differentiable_backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, list(gradients)) if operation._returns_list else backward(ctx, *gradients)

        methods = {"forward": staticmethod(differentiable_forward), "backward": staticmethod(differentiable_backward)}
        self._differentiable = type(function.__name__.strip("_"), (torch.autograd.Function,), methods)

    def __call__(self, *arguments: Any) -> Any:
        """Call it, with positional arguments."""
        if not _is_plain(arguments):
            return self.opaque(*arguments)
        if not torch.is_grad_enabled():
            return self._function(*arguments)
        if self._differentiable is None:  # a second derivative, which the opaque operation refuses when it is asked for
            return self.opaque(*arguments)
        output = self._differentiable.apply(*arguments)
        return list(output) if self._returns_list else output


def operation(name: str, schema: str | None = None) -> Callable[[Callable[..., Any]], Operation]:
    """Make a function an `Operation`."""
    return lambda function: Operation(function, name, schema)


def _is_plain(arguments: tuple[Any, ...]) -> bool:
    """Whether nothing but autograd looks on: no compilation, mode, transformation, profiler or unusual tensor."""
    return not (
        torch.compiler.is_compiling()
        or is_in_torch_dispatch_mode()
        or torch.autograd.profiler._is_profiler_enabled
        or torch._C._are_functorch_transforms_active()
    ) and all(_is_usual(x) for x in arguments)


def _is_usual(x: Any) -> bool:
    if isinstance(x, Tensor):
        return type(x) in (Tensor, nn.Parameter) and not x.is_meta
    return not isinstance(x, list | tuple) or all(_is_usual(y) for y in x)
