"""The authors' checkpoints, in and out: their config names, their tensor names, their layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy
import torch
from torch import Tensor

from gecko_lab.assembly import Tree, assemble
from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.network import Network

Family = Literal["gecko", "megalodon"]

_SHARED_DEFAULTS: dict[str, Any] = {
    "efficient_attn": None,
    "init_mode": "he",
    "vocab_size": -1,
    "output_size": -1,
    "norm_affine": True,
    "norm_eps": 1e-5,
    "dropout": 0.0,
    "hidden_dropout": 0.0,
    "attention_dropout": 0.0,
    "rescale_nffn": False,
    "scale_emb": False,
    "share_emb": False,
    "cema_ndim": 16,
    "chunk_size": 2048,
}
# The authors' defaults, by their names.
CONFIG_DEFAULTS: dict[str, dict[str, Any]] = {
    "gecko": {
        **_SHARED_DEFAULTS,
        "num_layers": 32,
        "model_dim": 4096,
        "z_dim": 1024,
        "value_dim": 8192,
        "num_heads": 4,
        "ffn_hidden_dim": 8192,
        "efficient_attn": "fused",
        "timenorm_num_groups": 64,
        "timenorm_beta1": 0.999,
        "timenorm_beta2": 0.9999,
        "layernorm_num_groups": 1,
        "memory_efficient_norm": False,
        "two_hop_residual": False,
        "rope_base": 500_000.0,
        "num_rope_heads": None,
        "swiglu": True,
    },
    "megalodon": {
        **_SHARED_DEFAULTS,
        "num_layers": 8,
        "model_dim": 1024,
        "z_dim": 256,
        "value_dim": 2048,
        "num_heads": 1,
        "ffn_hidden_dim": 2048,
        "norm_num_groups": 32,
        "rope_base": None,
        "swiglu": False,
        "layerwise_ckpt": False,
    },
}
# Theirs that choose how something is computed, not what.
_HOW = {"efficient_attn", "init_mode", "memory_efficient_norm", "layerwise_ckpt"}
_DEFAULT_MEGALODON_ROPE_BASE = 10_000.0


@dataclass(frozen=True)
class _Names:
    """Where a tensor of ours stands in a checkpoint of theirs."""

    ours: str
    theirs: str
    shape: tuple[int, ...]  # theirs, where it has axes of one that ours lacks


def load_reference(config: Mapping[str, Any], state_dict: Mapping[str, Any], family: Family = "gecko") -> Network:
    """Build the network of an authors' checkpoint.

    Args:
        config: their `ModelConf`, by their names; what is left out has their default.
        state_dict: tensors or arrays by their names, such as `layers.0.mega.cema.alpha`. Their constants (`rope.freqs`,
            `prior_count` …) may be left out.
        family: `gecko` (XuezheMax/gecko-llm) or `megalodon` (XuezheMax/megalodon).

    Returns:
        The network with these weights, in the dtype of `embed.weight`, in training mode.

    Raises:
        ConfigurationError: for unknown or missing names, wrong shapes and options that cannot be honoured; the message
            names all of them.
    """
    full = _full_config(config, family)
    network = assemble(_to_tree(full, family), "config")
    tensors = {name: _as_tensor(value) for name, value in state_dict.items()}
    names = _names(network, family)
    constants = _constants(network, full, family)
    problems = []
    expected = {name.theirs: name.shape for name in names} | {key: tuple(c.shape) for key, c in constants.items()}
    tied = "output.output.weight" if full["share_emb"] else None
    if tied:
        expected[tied] = expected["embed.weight"]
    missing = [name.theirs for name in names if name.theirs not in tensors]
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    for name, tensor in tensors.items():
        if name not in expected:
            problems.append(f"unknown: {name}{nearest(name, expected) if len(problems) < 3 else ''}")
        elif tuple(tensor.shape) != expected[name]:
            problems.append(f"{name} has the shape {list(tensor.shape)}, expected {list(expected[name])}")
        elif name in constants and not torch.allclose(tensor.double(), constants[name].double(), rtol=1e-5, atol=0):
            problems.append(f"{name} differs from what the config says; learned or changed values are not supported")
    if tied and tied in tensors and not problems and not torch.equal(tensors[tied], tensors["embed.weight"]):
        problems.append(f"share_emb is set, but {tied} differs from embed.weight")
    if problems:
        raise ConfigurationError(f"this is not a {family} checkpoint of this config: " + "; ".join(problems))
    network.to(tensors["embed.weight"].dtype)
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for known in names:
            parameter = parameters[known.ours]
            parameter.copy_(tensors[known.theirs].reshape(parameter.shape))
    return network


def dump_reference(model: Network, gradients: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The inverse of `load_reference`.

    Args:
        model: a network that their code could have made.
        gradients: give the gradients instead of the weights; parameters without one, and constants, are left out.

    Returns:
        Their config, complete, and copies of the tensors by their names and in their layouts.

    Raises:
        ConfigurationError: if the network has a part that their code lacks; the message names it.
    """
    family, config = _to_config(model)
    parameters = dict(model.named_parameters())
    tensors: dict[str, Tensor] = {}
    for name in _names(model, family):
        source: Tensor | None = parameters[name.ours]
        if gradients:
            source = parameters[name.ours].grad
        if source is not None:
            tensors[name.theirs] = source.detach().clone().reshape(name.shape)
    if not gradients:
        if config["share_emb"]:
            tensors["output.output.weight"] = tensors["embed.weight"].clone()
        tensors |= _constants(model, config, family)
    return config, tensors


def _as_tensor(value: Any) -> Tensor:
    return value.detach() if isinstance(value, Tensor) else torch.from_numpy(numpy.array(value))


def _full_config(config: Mapping[str, Any], family: str) -> dict[str, Any]:
    if family not in CONFIG_DEFAULTS:
        raise ConfigurationError(f"unknown family {family!r}{nearest(str(family), CONFIG_DEFAULTS)}")
    defaults = CONFIG_DEFAULTS[family]
    unknown = [f"{key}{nearest(key, defaults)}" for key in config if key not in defaults]
    if unknown:
        raise ConfigurationError(f"unknown names in the {family} config: {'; '.join(unknown)}")
    full = {**defaults, **config}
    if full["vocab_size"] < 1:
        raise ConfigurationError(f"vocab_size: the config must say how many tokens there are, got {full['vocab_size']}")
    if full["output_size"] not in (-1, full["vocab_size"]):
        raise ConfigurationError(
            f"output_size: {full['output_size']} outputs over {full['vocab_size']} tokens are not supported"
        )
    return full


def _to_tree(config: Mapping[str, Any], family: str) -> Tree:
    """The keys of `model.network` that their config stands for."""
    gecko = family == "gecko"
    eps = config["norm_eps"]
    rope: Tree = {"rope_base": _rope_base(config)}
    if gecko:
        rope["num_rope_heads"] = config["num_rope_heads"]
        groups = config["timenorm_num_groups"]
        norm: Tree = {"beta1": config["timenorm_beta1"], "beta2": config["timenorm_beta2"]}
    else:
        groups, norm = config["norm_num_groups"], {}
    average = {"num_dims": config["cema_ndim"], "learned_skip": not gecko, "scaled": not gecko}
    layer = {
        "timestep_norm": {
            "class_path": "TimestepDecayNorm" if gecko else "TimestepNorm",
            "init_args": {"num_groups": groups, "eps": eps, **norm},
        },
        "moving_average": {"class_path": "ComplexEMA", "init_args": average},
        "attention": {"class_path": "SlidingChunkAttention" if gecko else "ChunkAttention", "init_args": rope},
        "memory": "AdaptiveWorkingMemory" if gecko else None,
        "feed_forward": "SwiGLU" if config["swiglu"] else "MLP",
        "num_heads": config["num_heads"],
        "z_dim": config["z_dim"],
        "value_dim": config["value_dim"],
        "hidden_dim": config["ffn_hidden_dim"],
        "chunk_size": config["chunk_size"],
        "norm_num_groups": config["layernorm_num_groups"] if gecko else 1,
        "norm_eps": eps,
        "norm_affine": config["norm_affine"],
        "two_hop_residual": config["two_hop_residual"] if gecko else True,
        "rescale": config["rescale_nffn"],
        "dropout": config["dropout"],
        "hidden_dropout": config["hidden_dropout"],
        "attention_dropout": config["attention_dropout"],
    }
    return {
        "size": "7b",
        "num_layers": config["num_layers"],
        "model_dim": config["model_dim"],
        "vocab_size": config["vocab_size"],
        "tied_embedding": config["share_emb"],
        "scale_embedding": config["scale_emb"],
        "dropout": config["dropout"],
        "layer": {"class_path": "GeckoLayer", "init_args": layer},
    }


def _rope_base(config: Mapping[str, Any]) -> float:
    return _DEFAULT_MEGALODON_ROPE_BASE if config["rope_base"] is None else config["rope_base"]


def _to_config(model: Network) -> tuple[Family, dict[str, Any]]:
    """Their config of a network, found by asking which config of theirs would make it."""
    problems = []
    first: Any = model.layers[0]
    if type(first).__name__ != "GeckoLayer":
        raise ConfigurationError(f"the authors' code has no {type(first).__name__}")
    parts = {name: _part(getattr(first, name)) for name in ("timestep_norm", "moving_average", "attention", "memory")}
    wanted = {
        "gecko": ("TimestepDecayNorm", "ComplexEMA", "SlidingChunkAttention", "AdaptiveWorkingMemory"),
        "megalodon": ("TimestepNorm", "ComplexEMA", "ChunkAttention", "null"),
    }
    family: Family = "megalodon" if parts["timestep_norm"] == "TimestepNorm" else "gecko"
    for (slot, found), expected in zip(parts.items(), wanted[family], strict=True):
        if found != expected:
            problems.append(f"{slot} is {found}, {family} has {expected}")
    if type(first.feed_forward).__name__ not in ("SwiGLU", "MLP"):
        problems.append(f"feed_forward is {_part(first.feed_forward)}, {family} has SwiGLU or MLP")
    if problems:
        raise ConfigurationError(f"not a network of the authors' code: {'; '.join(problems)}")
    gecko = family == "gecko"
    norm, attention = first.timestep_norm, first.attention
    config: dict[str, Any] = {
        **CONFIG_DEFAULTS[family],
        "num_layers": len(model.layers),
        "model_dim": model.size.model_dim,
        "z_dim": first.to_z.out_features,
        "value_dim": first.to_value.out_features,
        "num_heads": first.num_heads,
        "ffn_hidden_dim": first.feed_forward.fc1.out_features,
        "cema_ndim": first.moving_average.num_dims,
        "chunk_size": attention.size,
        "vocab_size": model.vocab_size,
        "norm_affine": first.rms_norm.weight is not None,
        "norm_eps": first.norm_eps,
        "rope_base": attention.rope_base,
        "dropout": first.dropout,
        "hidden_dropout": first.hidden_dropout,
        "attention_dropout": attention.dropout,
        "swiglu": type(first.feed_forward).__name__ == "SwiGLU",
        "rescale_nffn": first.feed_forward_scale is not None,
        "scale_emb": model.embedding_scale != 1.0,
        "share_emb": model.tied_embedding,
    }
    if gecko:
        config |= {
            "timenorm_num_groups": norm.num_groups,
            "timenorm_beta1": norm.betas[0],
            "timenorm_beta2": norm.betas[1],
            "layernorm_num_groups": first.rms_norm.num_groups,
            "two_hop_residual": first.two_hop_residual,
            "num_rope_heads": None if attention.num_rope_heads == first.num_heads else attention.num_rope_heads,
        }
    else:
        config["norm_num_groups"] = norm.num_groups
    with torch.device("meta"):
        twin = assemble(_to_tree(config, family), "config")
    difference = sorted(_settings(model).items() ^ _settings(twin).items(), key=str)
    if difference:
        (where, name), value = difference[0]
        raise ConfigurationError(
            f"not a network of the authors' {family} code: {where or 'network'}.{name} = {value} has no name there"
        )
    return family, config


def _part(module: Any) -> str:
    return "null" if module is None else type(module).__name__


def _settings(model: Network) -> dict[tuple[str, str], Any]:
    """Every module's class, plain attributes and parameters' shapes."""
    found: dict[tuple[str, str], Any] = {}
    for where, module in model.named_modules():
        found[where, "class"] = type(module).__name__
        for name, value in vars(module).items():
            if isinstance(value, (int, float, str, tuple)) and name not in ("training", "checkpoint_layers"):
                found[where, name] = value
    return found | {(name, "shape"): tuple(parameter.shape) for name, parameter in model.named_parameters()}


_LAYER_NAMES = {
    "timestep_norm.weight": "mega.timenorm.weight",
    "timestep_norm.bias": "mega.timenorm.bias",
    "moving_average.alpha": "mega.cema.alpha",
    "moving_average.delta": "mega.cema.delta",
    "moving_average.theta": "mega.cema.theta",
    "moving_average.gamma": "mega.cema.gamma",
    "moving_average.omega": "mega.cema.omega",
    "rms_norm.weight": "mega.rmsnorm.weight",
    "to_value.weight": "mega.wv.weight",
    "to_value.bias": "mega.wv.bias",
    "to_z.weight": "mega.wz.weight",
    "to_z.bias": "mega.wz.bias",
    "to_gate.weight": "mega.wr.weight",
    "to_gate.bias": "mega.wr.bias",
    "to_output.weight": "mega.wh1.weight",
    "to_output.bias": "mega.wh1.bias",
    "from_value.weight": "mega.wh2.weight",
    "gamma": "mega.gamma",
    "beta": "mega.beta",
    "layer_norm.weight": "nffn.norm.weight",
    "layer_norm.bias": "nffn.norm.bias",
    "feed_forward.fc1.weight": "nffn.fc1.weight",
    "feed_forward.fc2.weight": "nffn.fc2.weight",
    "feed_forward.fc3.weight": "nffn.fc3.weight",
    "feed_forward_scale": "nffn.alpha",
}
_TOP_NAMES = {
    "embedding.weight": "embed.weight",
    "final_norm.weight": "output.final_norm.weight",
    "final_norm.bias": "output.final_norm.bias",
    "output.weight": "output.output.weight",
}
# Axes of one at the end that Megalodon's parameters have beyond ours.
_MEGALODON_AXES = {"mega.cema.alpha": 1, "mega.cema.delta": 1, "mega.cema.theta": 2, "mega.cema.omega": 1}


def _names(model: Network, family: str) -> list[_Names]:
    """Every parameter of ours with its name and shape of theirs."""
    found = []
    for ours, parameter in model.named_parameters():
        theirs, axes = _TOP_NAMES.get(ours), 0
        if theirs is None:
            _, index, rest = ours.split(".", 2)
            theirs = f"layers.{index}.{_LAYER_NAMES[rest]}"
            axes = _MEGALODON_AXES.get(_LAYER_NAMES[rest], 0) if family == "megalodon" else 0
        found.append(_Names(ours, theirs, (*parameter.shape, *(1,) * axes)))
    return found


def _constants(model: Network, config: Mapping[str, Any], family: str) -> dict[str, Tensor]:
    """Tensors of their checkpoints that the config determines: rotary frequencies and empty prior statistics."""
    groups = config["timenorm_num_groups" if family == "gecko" else "norm_num_groups"]
    spread = "prior_var" if family == "gecko" else "prior_logv"
    norms = [f"layers.{i}.mega.timenorm" for i in range(len(model.layers))] + ["output.final_norm"]
    constants = {}
    if config.get("num_rope_heads") != 0:
        key_dim = config["z_dim"] // config["num_heads"]
        exponents = torch.arange(0, key_dim, 2, dtype=torch.float64) / key_dim
        constants["rope.freqs"] = (_rope_base(config) ** -exponents).float()
    for norm in norms:
        constants[f"{norm}.prior_count"] = torch.tensor(0)
        constants[f"{norm}.prior_mean"] = torch.zeros(groups)
        constants[f"{norm}.{spread}"] = torch.zeros(groups)
    return constants
