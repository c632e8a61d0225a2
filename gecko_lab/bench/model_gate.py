"""The gate before a model is timed: do its fast paths compute what the references do?"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.bench.gate import TOLERANCE, Verdict, relative_error
from gecko_lab.bench.models import OURS, BenchModel, Recipe, build
from gecko_lab.bench.training import Precision, autocast, draw_tokens, parameter_dtype, product_dtype

_BATCH_SIZE, _LENGTH, _CHUNK_SIZE, _VOCAB_SIZE = 2, 53, 16, 61
"""Several chunks and a piece of one."""

_PROMPT = (13, 22)
"""Tokens of the pieces that are read before decoding; both end inside a chunk."""

Evaluation = Callable[[BenchModel, Tensor], dict[str, Tensor]]


def check_training(recipe: Recipe, precision: Precision, device: torch.device) -> Verdict:
    """Compare the smallest model of a recipe's family with itself in float64 by the references of every operation.

    Compared are the logits `y`, and the gradient of the loss in all weights together. Below float32 an error of twice
    that of the references in the same precision passes too. A model of another library need only have finite ones.

    Args:
        recipe: its size, vocabulary, chunks and widths do not count.
        precision: as it will be timed.
        device: where it will be timed.
    """
    return _check(recipe, precision, device, _logits_and_gradient)


def check_decoding(recipe: Recipe, precision: Precision, device: torch.device) -> Verdict:
    """The same of the logits alone, of a text that is read in two pieces and then token by token.

    They are compared with those of the whole text at once.
    """
    return _check(recipe, precision, device, _logits_in_pieces)


def _check(recipe: Recipe, precision: Precision, device: torch.device, evaluation: Evaluation) -> Verdict:
    ours = recipe.family in OURS
    chunk_size = _CHUNK_SIZE if ours else None
    small = recipe._replace(size="tiny", vocab_size=_VOCAB_SIZE, chunk_size=chunk_size, widths=())
    try:
        model = build(small).to(device)
        tokens = draw_tokens((_BATCH_SIZE, _LENGTH + 1), _VOCAB_SIZE, device)
        actual = _evaluate(model, tokens, precision, evaluation)
        if not all(bool(value.isfinite().all()) for value in actual.values()):
            return Verdict(recipe.name, {}, {}, "the logits or gradients are not finite")
        if not ours:
            return Verdict(recipe.name, {}, {})
        expected = _evaluate(model, tokens, None, _logits_and_gradient)
        forward, gradient = TOLERANCE[product_dtype(precision)]
        limits = {name: forward if name == "y" else gradient for name in actual}
        if precision != "32-true":
            with reference_backends():
                rounded = _evaluate(model, tokens, precision, evaluation)
            limits = {name: max(limits[name], 2 * relative_error(rounded[name], expected[name])) for name in limits}
    except Exception as error:  # whatever a kernel raises is its verdict
        return Verdict(recipe.name, {}, {}, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return Verdict(recipe.name, {name: relative_error(actual[name], expected[name]) for name in limits}, limits)


def _evaluate(
    model: BenchModel, tokens: Tensor, precision: Precision | None, evaluation: Evaluation
) -> dict[str, Tensor]:
    """What an evaluation gives in a precision; None is float64 by the references."""
    dtype = torch.float64 if precision is None else parameter_dtype(precision)
    model = copy.deepcopy(model).to(dtype)
    if precision is None:
        with reference_backends():
            return evaluation(model, tokens)
    with autocast(precision, tokens.device):
        return evaluation(model, tokens)


def _logits_and_gradient(model: BenchModel, tokens: Tensor) -> dict[str, Tensor]:
    hidden, _ = model.hidden(tokens[:, :-1])
    logits = F.linear(hidden, model.output_weight).double()
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    gradients = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
    return {"y": logits.detach(), "gradient": torch.cat(gradients)}


@torch.no_grad()
def _logits_in_pieces(model: BenchModel, tokens: Tensor) -> dict[str, Tensor]:
    model.eval()
    pieces: list[Tensor] = []
    state = None
    for part in tokens[:, :-1].split([*_PROMPT, *[1] * (_LENGTH - sum(_PROMPT))], dim=1):
        hidden, state = model.hidden(part, state)
        pieces.append(F.linear(hidden, model.output_weight).double())
    return {"y": torch.cat(pieces, dim=1)}


@contextmanager
def reference_backends() -> Iterator[None]:
    """Inside, the components compute every operation that has backends by its reference."""
    replaced = [
        (module, name, value)
        for module_name, module in list(sys.modules.items())
        if module_name.startswith("gecko_lab.components.")
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__.startswith("gecko_lab.kernels.")
        and "backend" in inspect.signature(value).parameters
    ]
    for module, name, value in replaced:
        setattr(module, name, functools.partial(value, backend="reference"))
    try:
        yield
    finally:
        for module, name, value in replaced:
            setattr(module, name, value)
