"""What is not a checkpoint of the authors' is refused, and the message names everything that is wrong with it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gecko_lab import build, dump_reference, load_reference
from gecko_lab.errors import ConfigurationError
from tests.test_reference_io import Config, read, under


def checkpoint(name: str = "gecko_single") -> tuple[Config, dict[str, Tensor]]:
    _, config, golden = read(name)
    return config, under("param/", golden)


def test_unknown_family() -> None:
    with pytest.raises(ConfigurationError, match="unknown family 'geko'; did you mean gecko"):
        load_reference(*checkpoint(), family="geko")  # type: ignore[arg-type]


def test_unknown_config_names() -> None:
    config, tensors = checkpoint()
    with pytest.raises(ConfigurationError) as caught:
        load_reference(config | {"cema_dim": 4, "chunks": 1}, tensors)
    assert "cema_dim; did you mean cema_ndim" in str(caught.value)
    assert "chunks; did you mean chunk_size" in str(caught.value)


def test_names_of_the_other_family() -> None:
    config, tensors = checkpoint("megalodon_single")
    with pytest.raises(ConfigurationError, match="unknown names in the gecko config: norm_num_groups"):
        load_reference(config, tensors, "gecko")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": -1}, "vocab_size: the config must say how many tokens"),
        ({"output_size": 60}, "output_size: 60 outputs over 61 tokens"),
        ({"num_heads": 3}, "z_dim 16 does not divide among 3 heads"),
        ({"timenorm_num_groups": 7}, "7 groups do not divide 48 features"),
        ({"layernorm_num_groups": 5}, "5 groups do not divide 48 features"),
        ({"num_rope_heads": 3}, "num_rope_heads must lie in 0 … 2"),
        ({"timenorm_beta1": 1.5}, "beta1 = 1.5"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_unsupported_options(change: Config, message: str) -> None:
    config, tensors = checkpoint()
    with pytest.raises(ConfigurationError, match=message):
        load_reference(config | change, tensors)


def test_output_size_of_the_vocabulary_is_the_default() -> None:
    config, tensors = checkpoint()
    assert load_reference(config | {"output_size": 61}, tensors).vocab_size == 61


def test_every_missing_unknown_and_misshapen_tensor_is_named() -> None:
    config, tensors = checkpoint()
    del tensors["embed.weight"], tensors["layers.1.mega.cema.theta"]
    tensors["layers.2.mega.gamma"] = torch.zeros(1)
    tensors["output.output.weight"] = torch.zeros(48, 61)
    tensors["layers.0.mega.wv.bias"] = torch.zeros(63)
    with pytest.raises(ConfigurationError) as caught:
        load_reference(config, tensors)
    message = str(caught.value)
    assert "this is not a gecko checkpoint of this config" in message
    assert "missing: embed.weight, layers.1.mega.cema.theta;" in message
    assert "unknown: layers.2.mega.gamma" in message
    assert "output.output.weight has the shape [48, 61], expected [61, 48]" in message
    assert "layers.0.mega.wv.bias has the shape [63], expected [64]" in message


def test_a_misspelt_tensor_comes_with_the_nearest_name() -> None:
    config, tensors = checkpoint()
    tensors["layers.0.mega.cema.thetas"] = torch.zeros(1)
    with pytest.raises(ConfigurationError, match=r"cema\.thetas; did you mean layers\.0\.mega\.cema\.theta"):
        load_reference(config, tensors)


def test_megalodons_axes_of_one_are_required() -> None:
    config, tensors = checkpoint("megalodon_single")
    tensors["layers.0.mega.cema.omega"] = tensors["layers.0.mega.cema.omega"].flatten()
    with pytest.raises(ConfigurationError, match=r"omega has the shape \[48\], expected \[48, 1\]"):
        load_reference(config, tensors, "megalodon")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("gecko_single", "rope.freqs"),
        ("gecko_single", "layers.1.mega.timenorm.prior_count"),
        ("gecko_single", "output.final_norm.prior_mean"),
        ("gecko_single", "layers.0.mega.timenorm.prior_var"),
        ("megalodon_single", "rope.freqs"),
        ("megalodon_single", "output.final_norm.prior_logv"),
    ],
)
def test_changed_constants(file: str, name: str) -> None:
    config, tensors = checkpoint(file)
    tensors[name] = tensors[name] * 1.001 + 1
    with pytest.raises(ConfigurationError, match=f"{name} differs from what the config says"):
        load_reference(config, tensors, "gecko" if file.startswith("gecko") else "megalodon")


def test_tied_weights_that_differ() -> None:
    config, tensors = checkpoint("gecko_options")
    tensors["output.output.weight"] = tensors["output.output.weight"] + 1
    with pytest.raises(ConfigurationError, match=r"share_emb is set, but output\.output\.weight differs"):
        load_reference(config, tensors)


TINY: dict[str, Any] = {"vocab_size": 7, "num_layers": 2, "model_dim": 8}
LAYER = {"num_heads": 2, "z_dim": 8, "value_dim": 8, "hidden_dim": 4, "chunk_size": 4}
MIXED = [{"class_path": "GeckoLayer", "init_args": LAYER | {"memory": memory}} for memory in ("AdditiveMemory", None)]
SECOND_DIFFERS = [
    {"class_path": "GeckoLayer", "init_args": LAYER},
    {"class_path": "GeckoLayer", "init_args": LAYER | {"two_hop_residual": True}},
]


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("gecko-tiny", {"memory": "AdditiveMemory"}, "memory is AdditiveMemory, gecko has AdaptiveWorkingMemory"),
        ("gecko-tiny", {"memory": None}, "memory is null, gecko has AdaptiveWorkingMemory"),
        ("gecko-tiny", {"memory": {"capacity": 2}}, "not a network of the authors' gecko code"),
        ("gecko-tiny", {"moving_average": "RealEMA"}, "moving_average is RealEMA"),
        ("gecko-tiny", {"moving_average": None}, "moving_average is null"),
        ("gecko-tiny", {"moving_average": {"learned_skip": True}}, "moving_average.omega"),
        ("gecko-tiny", {"attention": "FullAttention"}, "attention is FullAttention"),
        ("gecko-tiny", {"attention": None, "memory": None}, "attention is null.*memory is null"),
        ("gecko-tiny", {"timestep_norm": None}, "timestep_norm is null"),
        ("gecko-tiny", {"timestep_norm": "RMSNorm"}, "timestep_norm is RMSNorm"),
        ("gecko-tiny", {"timestep_norm": {"eps": 1e-3}}, "eps"),
        ("gecko-tiny", {"feed_forward": None}, "feed_forward is null, gecko has SwiGLU or MLP"),
        ("gecko-tiny", MIXED, "memory is AdditiveMemory"),
        ("gecko-tiny", SECOND_DIFFERS, "two_hop_residual"),
        ("megalodon-tiny", {"two_hop_residual": False}, "two_hop_residual"),
        ("megalodon-tiny", {"norm_num_groups": 2}, "num_groups"),
        ("megalodon-tiny", {"attention": {"num_rope_heads": 1}}, "num_rope_heads"),
        ("megalodon-tiny", {"memory": "AdaptiveWorkingMemory"}, "memory is AdaptiveWorkingMemory, megalodon has null"),
        ("llama-tiny", {"num_heads": 2}, "the authors' code has no TransformerLayer"),
    ],
)
def test_networks_that_the_authors_code_cannot_express(name: str, layer: Any, message: str) -> None:
    if isinstance(layer, dict) and not name.startswith("llama"):
        layer = LAYER | layer
    network = build(name, **TINY, layer=layer)
    with pytest.raises(ConfigurationError, match=message):
        dump_reference(network)


@pytest.mark.parametrize("name", ["gecko-tiny", "megalodon-tiny"])
def test_networks_by_name_can_be_expressed(name: str) -> None:
    config, tensors = dump_reference(build(name, **TINY, layer=LAYER))
    network = load_reference(config, tensors, "gecko" if name.startswith("gecko") else "megalodon")
    assert network.num_parameters() == build(name, **TINY, layer=LAYER).num_parameters()
