"""Llama and Mamba-2 of the library `transformers`, which is imported only here."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gecko_lab.bench.models import BenchModel, parameters
from gecko_lab.registry import find
from gecko_lab.slots import Layer, Size

if TYPE_CHECKING:
    from gecko_lab.bench.models import Recipe

_LONGEST = 1 << 21
_MAMBA2_HEAD = 64


def build_transformers_model(recipe: Recipe) -> BenchModel:
    """The model of a recipe whose family is one of `transformers`."""
    size, widths = _size(recipe.size), dict(recipe.widths)
    model = Llama if recipe.family == "transformers-llama" else Mamba2
    built = model(recipe, size, widths)
    built.own_loss = recipe.own_loss
    if recipe.checkpoint_layers:
        with _quiet():
            built.whole.gradient_checkpointing_enable({"use_reentrant": False})
    return built


def _size(name: str) -> Size:
    """The dimensions of our own transformer of that size."""
    cls: Any = find(Layer, "TransformerLayer", "--size")
    size: Size = cls.sizes[name]
    return size


class _TransformersModel(BenchModel):
    """What the two share: `backbone` gives the hidden states, `cache` is its keyword for what it remembers."""

    whole: Any
    backbone: Any
    cache: str
    own_loss = False

    def loss(self, tokens: Tensor) -> Tensor:
        """The shared one, or that of the library: all logits at once."""
        if not self.own_loss:
            return super().loss(tokens)
        inputs, targets = tokens[:, :-1], tokens[:, 1:].contiguous()
        with _quiet():
            outputs = self.whole(input_ids=inputs, labels=targets, shift_labels=targets, use_cache=False)
        loss: Tensor = outputs.loss
        return loss

    def hidden(self, tokens: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """A state is changed in place and comes back."""
        with _quiet():
            outputs = self.backbone(input_ids=tokens, **{self.cache: state}, use_cache=not self.training)
        # With bfloat16 weights Mamba-2 keeps its residual stream in float32.
        hidden = outputs.last_hidden_state
        hidden = hidden if torch.is_autocast_enabled(hidden.device.type) else hidden.to(self.output_weight.dtype)
        return hidden, getattr(outputs, self.cache)

    @property
    def output_weight(self) -> Tensor:
        """Of the head."""
        weight: Tensor = self.whole.lm_head.weight
        return weight


class Llama(_TransformersModel):
    """`LlamaForCausalLM` with `scaled_dot_product_attention`."""

    cache = "past_key_values"

    def __init__(self, recipe: Recipe, size: Size, widths: dict[str, int]) -> None:
        super().__init__()
        library = importlib.import_module("transformers")
        config = library.LlamaConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=size.model_dim,
            intermediate_size=widths.get("hidden_dim", size.hidden_dim),
            num_hidden_layers=size.num_layers,
            num_attention_heads=size.num_heads,
            num_key_value_heads=size.num_heads,
            max_position_embeddings=_LONGEST,
            tie_word_embeddings=False,
            attn_implementation="sdpa",
        )
        with _quiet():
            self.whole = library.LlamaForCausalLM(config).train()
        self.backbone, self.config = self.whole.model, config

    def flops_per_token(self, length: int) -> float:
        """The linear maps', and the attention's to the keys before each query."""
        of = self.config
        linear = sum(p.numel() for p in self.parameters() if p.ndim == 2) - of.vocab_size * of.hidden_size
        return 2 * linear + 2 * 2 * of.hidden_size * of.num_hidden_layers * (length + 1) / 2


class Mamba2(_TransformersModel):
    """`Mamba2ForCausalLM`; on CPU, and where its CUDA kernels are not installed, its PyTorch path."""

    cache = "cache_params"

    def __init__(self, recipe: Recipe, size: Size, widths: dict[str, int]) -> None:
        super().__init__()
        library = importlib.import_module("transformers")
        inner = 2 * size.model_dim
        head_dim = _MAMBA2_HEAD if inner % _MAMBA2_HEAD == 0 else inner
        config = library.Mamba2Config(
            vocab_size=recipe.vocab_size,
            hidden_size=size.model_dim,
            num_hidden_layers=widths.get("num_layers", 2 * size.num_layers),
            state_size=widths.get("state_size", 128),
            num_heads=inner // head_dim,
            head_dim=head_dim,
            n_groups=1,
            tie_word_embeddings=False,
        )
        with _quiet():
            self.whole = library.Mamba2ForCausalLM(config).train()
        self.backbone, self.config = self.whole.backbone, config

    def flops_per_token(self, length: int) -> float:
        """The linear maps', the convolution's, and a multiply-add to write and one to read each state."""
        of = self.config
        linear = sum(p.numel() for p in self.parameters() if p.ndim >= 2) - of.vocab_size * of.hidden_size
        return 2 * linear + 2 * 2 * of.num_hidden_layers * of.num_heads * of.head_dim * of.state_size


def mamba2_widths(recipe: Recipe, target: int, multiple: int) -> tuple[tuple[str, int], ...]:
    """Layers, and states near 128, that come nearest to a number of parameters."""

    def count(layers: int, states: int) -> int:
        return parameters(recipe._replace(widths=(("num_layers", layers), ("state_size", states))))

    outside = 2 * count(1, 128) - count(2, 128)
    of_layer, of_state = count(1, 128) - outside, count(1, 129) - count(1, 128)
    layers = max(1, round((target - outside) / of_layer))
    states = 128 + ((target - outside) / layers - of_layer) / of_state
    return (("num_layers", layers), ("state_size", max(round(states / multiple), 1) * multiple))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without its advice on kernels to install and its deprecations of its own."""
    logging = importlib.import_module("transformers.utils.logging")
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
