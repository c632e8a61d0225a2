"""How much memory a training step takes, found without computing one: a step on tensors that have no content."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._pytree import tree_leaves

from gecko_lab.gradients import clip_gradients
from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.network import Network
from gecko_lab.optimizer import OptimizerSettings, build_optimizer


class MemoryAccount(NamedTuple):
    """Bytes at the moment of a training step at which they are most, by what they are for.

    Attributes:
        parameters: the model's.
        gradients: of the parameters.
        optimizer: the two moments of AdamW.
        activations: what the forward pass keeps for the backward pass.
        temporary: what either computes with.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    temporary: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


ModelT = TypeVar("ModelT", bound=nn.Module)

FOLLOWED = 16_384
"""Timesteps of the longest step that is gone through; about a minute."""


def next_token_loss(network: Network, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of each next token of int64 `[B, L + 1]`, as training computes it."""
    hidden, _ = network.hidden(tokens[:, :-1])
    return linear_cross_entropy(hidden, network.output.weight, tokens[:, 1:])


def account(
    build: Callable[[], ModelT],
    loss: Callable[[ModelT, Tensor], Tensor] = next_token_loss,  # type: ignore[assignment]
    *,
    batch_size: int,
    length: int,
) -> MemoryAccount:
    """The memory of a training step with clipping and AdamW, in float32 on a CPU.

    Every operation of a step is gone through with the shapes of its tensors alone (PyTorch's fake tensors and
    MemTracker): what is kept, when it is let go, and what is needed at once follow from the components themselves.
    Operations made in Python, the package's own and some of PyTorch's, are followed into their implementations, the
    first time for each look of their arguments; one that asks for values, as with documents, is seen by its results
    alone. Not seen are what PyTorch's other operations and the libraries below them take inside (some MiB for the
    packed factors of products), and what the C library keeps after it was freed: with glibc's changing thresholds, more
    than half of the whole where layers are recomputed; the environment variable `MALLOC_TRIM_THRESHOLD_=131072` makes
    it give that back.

    Takes seconds, and longer with more chunks. Beyond a few chunks the memory grows in proportion to the length: what
    more than `FOLLOWED` timesteps take is extrapolated from half as many and so many.

    Args:
        build: makes the model, a `Network` where the loss is not given.
        loss: of the model and int64 tokens `[B, L + 1]`.
        batch_size: sequences of a step.
        length: tokens of a sequence.
    """
    if length <= FOLLOWED:
        return _go_through(build, loss, batch_size, length)
    half = FOLLOWED // 2
    shorter, longer = (_go_through(build, loss, batch_size, followed) for followed in (half, FOLLOWED))
    share = (length - half) / half
    return MemoryAccount(*(round(a + (b - a) * share) for a, b in zip(shorter, longer, strict=True)))


def _go_through(
    build: Callable[[], ModelT], loss: Callable[[ModelT, Tensor], Tensor], batch_size: int, length: int
) -> MemoryAccount:
    with torch.device("meta"):
        model = build()
    with FakeTensorMode():
        _give_shapes_alone(model)
        tokens = torch.zeros(batch_size, length + 1, dtype=torch.int64)
        optimizer = build_optimizer(model, OptimizerSettings())
        for parameter in model.parameters():  # as after the first step
            moments = {name: torch.empty_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
        tracker = _Tracker()
        tracker.track_external(model, optimizer, tokens)
        with tracker:
            loss(model, tokens).backward()
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
    found: dict[str, int] = {}
    for kinds in tracker.get_tracker_snapshot("peak").values():
        for kind, size in kinds.items():
            name = getattr(kind, "value", kind)
            found[name] = found.get(name, 0) + size
    return MemoryAccount(
        parameters=found["Parameter"] + found["Buffer"],
        gradients=found["Gradient"],
        optimizer=found["Optstate"],
        activations=found["Activation"],
        temporary=found["Temp"] + found["Other"],
    )


class _Tracker(MemTracker):
    """Also sees what operations made in Python take inside; keeps no account of each module."""

    def __init__(self) -> None:
        super().__init__()
        self._most = 0  # bytes in use at once since the innermost operation that is being followed began
        self._inside: dict[tuple[Any, ...], int] = {}  # by operation and arguments: bytes it takes at once, results too

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Follow an operation made in Python into its implementation, once for arguments that look the same."""
        if func.name() not in OPDEFS:
            return super().__torch_dispatch__(func, types, args, kwargs)
        key = func, *(_look(leaf) for leaf in tree_leaves((args, kwargs)))
        if key not in self._inside:
            outer, before = self._most, self._in_use()
            self._most = before
            try:
                with self:
                    return OPDEFS[func.name()]._init_fn(*args, **kwargs or {})
            except (DataDependentOutputException, DynamicOutputShapeException):
                pass  # its results alone are seen
            finally:
                self._inside[key] = self._most - before
                self._most = max(outer, self._most)
        with self:
            torch.empty(self._inside[key], dtype=torch.uint8)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _in_use(self) -> int:
        return sum(kinds["Total"] for kinds in self._curr_mem_snap.values())

    def _update_peak_stats(self, peak_state: Any) -> None:
        self._most = max(self._most, self._in_use())
        for device, kinds in self._curr_mem_snap.items():
            if self._peak_mem.get(device, 0) < kinds["Total"]:
                self._peak_mem[device] = kinds["Total"]
                self._peak_mem_snap[device] = dict(kinds)


def _look(argument: object) -> object:
    """All of an argument that decides how much memory an operation takes."""
    return (argument.shape, argument.stride(), argument.dtype) if isinstance(argument, Tensor) else argument


def _give_shapes_alone(model: nn.Module) -> None:
    """Replace every tensor of a model by one of the same shape that has no content; tied ones stay tied."""
    known: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if parameter not in known:
                    known[parameter] = nn.Parameter(_like(parameter), requires_grad=parameter.requires_grad)
                module._parameters[name] = known[parameter]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _like(buffer)


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
