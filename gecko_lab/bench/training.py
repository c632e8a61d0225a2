"""One training step of a model, to be timed and weighed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gecko_lab.bench import memory
from gecko_lab.bench.models import OURS, BenchModel, Recipe, build
from gecko_lab.gradients import clip_gradients
from gecko_lab.memory_account import account
from gecko_lab.optimizer import OptimizerSettings, build_optimizer

Precision = Literal["32-true", "bf16-mixed", "bf16-true"]
_WARM_UP_TOKENS = 64


def parameter_dtype(precision: Precision) -> torch.dtype:
    """Of the weights."""
    return torch.bfloat16 if precision == "bf16-true" else torch.float32


def product_dtype(precision: Precision) -> torch.dtype:
    """Of the matrix products."""
    return torch.float32 if precision == "32-true" else torch.bfloat16


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Where a model computes; Lightning's precision plugins do the same."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16-mixed" else nullcontext()


def draw_tokens(shape: tuple[int, ...], vocab_size: int, device: torch.device) -> Tensor:
    """Seeded int64 tokens."""
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(1)).to(device)


class TrainingStep:
    """Forward, backward, clipping and AdamW, as `gecko-lab fit` does them.

    Args:
        model: on its device, in its dtype; is trained.
        tokens: int64 `[B, L + 1]`.
        precision: as `trainer.precision`.
    """

    def __init__(self, model: BenchModel, tokens: Tensor, precision: Precision) -> None:
        self._model, self._tokens, self._precision = model, tokens, precision
        # A rate so small that steps on the same tokens change nothing that could be timed.
        self._optimizer = build_optimizer(model, OptimizerSettings(lr=1e-6))

    def read(self, tokens: Tensor) -> None:
        """Go on with other tokens."""
        self._optimizer.zero_grad(set_to_none=True)
        self._tokens = tokens

    def __call__(self) -> None:
        """One step."""
        self._optimizer.zero_grad(set_to_none=True)
        with autocast(self._precision, self._tokens.device):
            loss = self._model.loss(self._tokens)
        loss.backward()
        clip_gradients(self._model.parameters(), 1.0)
        self._optimizer.step()


class Load(NamedTuple):
    """A training step whose memory is to be known; picklable."""

    recipe: Recipe
    batch_size: int
    length: int
    precision: Precision
    device: torch.device
    threads: int


def peak_bytes(load: Load) -> int | None:
    """Peak of a step above weights and moments: activations, gradients, temporaries; None where it is not known.

    Raises:
        MemoryError: there is not enough.
    """
    try:
        return _peak_here(load) if load.device.type == "cuda" else memory.in_new_process(_peak_here, load)
    except torch.OutOfMemoryError as error:
        raise MemoryError(str(error).splitlines()[0]) from None


def predicted_bytes(load: Load) -> int | None:
    """What `peak_bytes` should find, from the account of our models' parts; None where nobody can say."""
    if load.recipe.family not in OURS or load.precision != "32-true" or load.device.type != "cpu":
        return None
    found = account(
        lambda: build(load.recipe), lambda model, x: model.loss(x), batch_size=load.batch_size, length=load.length
    )
    return found.total - found.parameters - found.optimizer


def _peak_here(load: Load) -> int | None:
    torch.set_num_threads(load.threads)
    model = build(load.recipe).to(load.device, parameter_dtype(load.precision))
    short = draw_tokens((1, _WARM_UP_TOKENS + 1), load.recipe.vocab_size, load.device)
    step = TrainingStep(model, short, load.precision)
    step()  # loads the libraries' code and makes the moments
    step.read(draw_tokens((load.batch_size, load.length + 1), load.recipe.vocab_size, load.device))
    return memory.peak_of(step, load.device)
