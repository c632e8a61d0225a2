"""Language models that are compared as a whole: ours and, of the same parameters, what one would take otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gecko_lab.errors import ConfigurationError
from gecko_lab.kernels.linear_cross_entropy import linear_cross_entropy
from gecko_lab.network import Network

TOLERANCE = 0.01
"""How far the parameters of a model may lie from those of the first, as a share of them."""

OURS = ("gecko", "megalodon", "llama")
"""Families of our own."""

NAMES = ("gecko", "megalodon", "llama", "mamba2")

OWN_LOSS = "llama-own-loss"
"""Llama of `transformers` as it comes; all other models are given our loss, which is faster and leaner."""


class Recipe(NamedTuple):
    """All that a model is built from; picklable, so that another process can build it.

    Attributes:
        name: as it is shown.
        family: one of `OURS`, or a model of `transformers`: `transformers-llama`, `transformers-mamba2`.
        size: name of the dimensions.
        vocab_size: tokens.
        chunk_size: of our attentions and memories; None: the size's.
        widths: dimensions solved for, by name.
        checkpoint_layers: recompute each layer in the backward pass; those of `transformers` know nothing selective.
        own_loss: train a model of `transformers` with the loss that it comes with.
    """

    name: str
    family: str
    size: str
    vocab_size: int
    chunk_size: int | None = None
    widths: tuple[tuple[str, int], ...] = ()
    checkpoint_layers: bool | Literal["selective"] = False
    own_loss: bool = False

    def describe(self) -> str:
        """`transformers-llama 15m, hidden_dim 1157`."""
        return ", ".join([f"{self.family} {self.size}", *(f"{name} {value:,}" for name, value in self.widths)])


class BenchModel(nn.Module, ABC):
    """What every one of them can do."""

    @abstractmethod
    def hidden(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """What the output projection reads, `[B, L, D]` of int64 `[B, L]`, and the state after it.

        A state of None begins a stream; in training no state need come back.
        """

    @property
    @abstractmethod
    def output_weight(self) -> Tensor:
        """Of the output projection, `[vocab_size, D]`."""

    @abstractmethod
    def flops_per_token(self, length: int) -> float:
        """Of the forward pass, averaged over a stream of `length` tokens, as `Slot.flops_per_token` counts."""

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of each next token of int64 `[B, L + 1]`; the same code for all models but `OWN_LOSS`."""
        hidden, _ = self.hidden(tokens[:, :-1])
        return linear_cross_entropy(hidden, self.output_weight, tokens[:, 1:])

    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Logits `[B, vocab_size]` after the last of the tokens `[B, L]`, and the state."""
        hidden, state = self.hidden(tokens, state)
        return F.linear(hidden[:, -1], self.output_weight), state


class OurModel(BenchModel):
    """A network of ours."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def hidden(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """See `Network.hidden`."""
        return self.network.hidden(tokens, state)

    @property
    def output_weight(self) -> Tensor:
        """The network's."""
        return self.network.output.weight

    def flops_per_token(self, length: int) -> float:
        """The network's own count."""
        return self.network.flops_per_token(length)


def build(recipe: Recipe) -> BenchModel:
    """The model, initialised, in training mode; the random numbers are the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if recipe.family in OURS:
            from gecko_lab.families import build as build_network

            options: dict[str, Any] = dict(recipe.widths)
            if recipe.chunk_size is not None:
                options["chunk_size"] = recipe.chunk_size
            others = {"vocab_size": recipe.vocab_size, "checkpoint_layers": recipe.checkpoint_layers}
            return OurModel(build_network(f"{recipe.family}-{recipe.size}", layer=options, **others))
        from gecko_lab.bench.transformers_models import build_transformers_model

        return build_transformers_model(recipe)


def matched(names: list[str], size: str, vocab_size: int, chunk_size: int | None) -> tuple[list[Recipe], list[str]]:
    """Recipes of the models asked for, all of the first one's parameters.

    Args:
        names: of `NAMES`, or `OWN_LOSS`.
        size: the name of the first one's dimensions.
        vocab_size: tokens of all of them.
        chunk_size: of ours; None: the size's.

    Returns:
        The recipes, and remarks about what is not as it was asked.

    Raises:
        ConfigurationError: a model has no such size, or no widths give it as many parameters.
    """
    recipes: list[Recipe] = []
    remarks = []
    installed = find_spec("transformers") is not None
    for name in names:
        if name in ("mamba2", OWN_LOSS) and not installed:
            remarks.append(f"{name} is left out: it needs transformers (pip install 'gecko-lab[bench]')")
            continue
        theirs = {"llama": "transformers-llama", OWN_LOSS: "transformers-llama", "mamba2": "transformers-mamba2"}
        family = theirs.get(name, name) if installed else name
        if name == "llama" and not installed:
            remarks.append("llama is ours: transformers is not installed (pip install 'gecko-lab[bench]')")
        recipe = Recipe(
            name, family, size, vocab_size, chunk_size if family in OURS else None, own_loss=name == OWN_LOSS
        )
        recipes.append(_match(recipe, parameters(recipes[0])) if recipes else recipe)
    return recipes, remarks


def _match(recipe: Recipe, target: int) -> Recipe:
    if recipe.family == "transformers-mamba2":
        from gecko_lab.bench.transformers_models import mamba2_widths as widths
    else:
        widths = _hidden_dim
        if _agrees(recipe, target):
            return recipe
    for multiple in (64, 16, 8, 1):  # a processor multiplies round widths faster
        found = recipe._replace(widths=widths(recipe, target, multiple))
        if _agrees(found, target):
            return found
    raise ConfigurationError(
        f"--models: no widths give {recipe.name} the {target:,} parameters of the first model: the nearest is "
        f"{found.describe()} with {parameters(found):,}; leave it out, or choose another --size or --vocab_size"
    )


def _agrees(recipe: Recipe, target: int) -> bool:
    return abs(parameters(recipe) - target) <= TOLERANCE * target


def _hidden_dim(recipe: Recipe, target: int, multiple: int) -> tuple[tuple[str, int], ...]:
    """The width of the feed-forward, of which parameters are a linear function, that comes nearest."""

    def count(hidden_dim: int) -> int:
        return parameters(recipe._replace(widths=(("hidden_dim", hidden_dim),)))

    exact = 1 + (target - count(1)) / (count(2) - count(1))
    return (("hidden_dim", max(round(exact / multiple), 1) * multiple),)


def parameters(recipe: Recipe) -> int:
    """Of all of the model."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(recipe).parameters())
