"""Norms of gradients, weights and activations, component by component."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn

from gecko_lab.errors import ConfigurationError
from gecko_lab.gradients import gradient_scale, whole
from gecko_lab.slots import Slot


class Norms(Callback):
    """Log norms of each component every few steps.

    `gradient_norm/layers.0.memory` (of the whole step, before clipping), `parameter_norm/layers.0.memory` (before the
    step) and `activation_rms/layers.0.memory` (root of the mean square of its output's elements, over the step's
    batches on this rank) for every slot of every layer, for the layers themselves with all that is in them, and for
    embedding, final norm and output projection. They go straight to the loggers, at the steps that are measured alone.

    A compiled layer does not show what is inside it: of its activations there is the layer's output only. The output
    projection has no activations, as its logits never exist at once. With `FSDPStrategy`, which flattens
    weights of several components into one, gradient and parameter norms are left out; `ModelParallelStrategy` has them.

    Args:
        every_n_steps: steps from one measurement to the next; 0: never.
    """

    def __init__(self, *, every_n_steps: int = 50) -> None:
        if every_n_steps < 0:
            raise ConfigurationError(f"norms.every_n_steps: must not be negative, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._mean_squares: dict[str, list[Tensor]] = defaultdict(list)  # component: float64 scalars, one a batch
        self._hooks: list[Any] = []
        self._compiled: list[tuple[nn.Module, Any]] = []  # layers, and what they are compiled to
        self._measuring = False

    def _due(self, trainer: Trainer) -> bool:
        return self.every_n_steps > 0 and (trainer.global_step + 1) % self.every_n_steps == 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin to look at activations."""
        if not self._due(trainer):
            return
        self._measuring = True
        if not self._hooks and not self._compiled:
            self._install(components(pl_module.network))  # type: ignore[arg-type]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """End to look at activations: what checkpointing computes again has been seen."""
        self._measuring = False

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Measure and log."""
        if not self._due(trainer):
            return
        self._remove()
        network: Any = pl_module.network
        metrics = {
            f"activation_rms/{name}": math.sqrt(torch.stack(squares).mean().item())
            for name, squares in self._mean_squares.items()
        }
        self._mean_squares.clear()
        if not isinstance(trainer.strategy, FSDPStrategy):
            metrics |= _weight_norms(network, gradient_scale(trainer, optimizer))
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.global_step)
            logger.save()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._remove()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave no hook behind: the last step's batches may be incomplete."""
        self._remove()

    def _install(self, parts: dict[str, nn.Module]) -> None:
        """Watch every component's output; a compiled layer is wrapped, as hooks on what is compiled are not called."""
        inside: set[nn.Module] = set()
        for name, part in parts.items():
            compiled = part._compiled_call_impl
            if compiled is not None:
                inside |= set(part.modules())
                self._compiled.append((part, compiled))
                part._compiled_call_impl = functools.partial(self._call, name, compiled)
            elif part not in inside:
                self._hooks.append(part.register_forward_hook(functools.partial(self._hook, name)))

    def _remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for part, compiled in self._compiled:
            part._compiled_call_impl = compiled
        self._hooks, self._compiled, self._measuring = [], [], False

    def _call(self, name: str, compiled: Any, *args: Any, **kwargs: Any) -> Any:
        output = compiled(*args, **kwargs)
        self._look(name, output)
        return output

    def _hook(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._look(name, output)

    @torch.no_grad()
    def _look(self, name: str, output: Any) -> None:
        if not self._measuring:
            return
        activation = output[0] if isinstance(output, tuple) else output
        norm = torch.linalg.vector_norm(activation, dtype=torch.float32).double()
        self._mean_squares[name].append(norm.square() / activation.numel())


def components(network: nn.Module) -> dict[str, nn.Module]:
    """The parts that norms are logged for, by name, outer ones first: every slot, embedding and output projection."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Slot) or name in ("embedding", "output")
    }


def _weight_norms(network: nn.Module, scale: float) -> dict[str, float]:
    """Gradient and parameter norms of every component that has parameters; every rank must call."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    place = {id(parameter): i for i, parameter in enumerate(parameters)}
    zero = torch.zeros((), device=parameters[0].device)
    norms = [_norm(parameter.detach()) for parameter in parameters]
    norms += [zero if parameter.grad is None else _norm(parameter.grad) / scale for parameter in parameters]
    squares = torch.stack(norms).double().square().view(2, -1).cpu()  # [2, parameters]
    metrics = {}
    for name, part in components(network).items():
        places = [place[id(parameter)] for parameter in part.parameters() if id(parameter) in place]
        if places:
            of_parameters, of_gradients = squares[:, places].sum(dim=1).sqrt().tolist()
            metrics[f"parameter_norm/{name}"] = of_parameters
            metrics[f"gradient_norm/{name}"] = of_gradients
    return metrics


def _norm(tensor: Tensor) -> Tensor:
    return whole(torch.linalg.vector_norm(tensor, dtype=torch.float32))
