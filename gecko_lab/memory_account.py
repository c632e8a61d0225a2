"""How much memory a training step takes, found without computing one: a step on tensors that have no content."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.network import Network


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
    """The memory of a training step with AdamW, in float32 on a CPU.

    Every operation of a step is gone through with the shapes of its tensors alone (PyTorch's fake tensors and
    MemTracker): what is kept, when it is let go, and what is needed at once follow from the components themselves. What
    an operation of the package takes inside, and what the allocator leaves unused, is not seen. Takes seconds, and
    longer with more chunks; beyond a few chunks the result grows in proportion to the length.

    Args:
        build: makes the model, a `Network` where the loss is not given.
        loss: of the model and int64 tokens `[B, L + 1]`.
        batch_size: sequences of a step.
        length: tokens of a sequence.
    """
    with torch.device("meta"):
        model = build()
    with FakeTensorMode():
        _give_shapes_alone(model)
        tokens = torch.zeros(batch_size, length + 1, dtype=torch.int64)
        optimizer = torch.optim.AdamW(model.parameters())
        for parameter in model.parameters():  # as after the first step
            moments = {name: torch.empty_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(0.0), **moments}
        tracker = MemTracker()
        tracker.track_external(model, optimizer, tokens)
        with tracker:
            loss(model, tokens).backward()
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
