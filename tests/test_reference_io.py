"""The authors' checkpoints: golden models in and out, random configs there and back, and every mistake by name."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gecko_lab import dump_reference, load_reference
from gecko_lab.network import Network
from gecko_lab.reference_io import CONFIG_DEFAULTS, Family
from tests.tolerances import GOLDEN, GOLDEN_FOLDER, TOLERANCE, compare, load_golden

FILES = ["gecko_single", "gecko_documents", "gecko_options", "megalodon_single"]
Config = dict[str, Any]


def read(name: str) -> tuple[Family, Config, dict[str, Tensor]]:
    """Family, config and all tensors of a golden file."""
    with np.load(GOLDEN_FOLDER / f"{name}.npz") as file:
        config = json.loads(str(file["config"]))
    return "gecko" if name.startswith("gecko") else "megalodon", config, load_golden(name)


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def loaded(name: str) -> tuple[Network, dict[str, Tensor]]:
    family, config, golden = read(name)
    return load_reference(config, under("param/", golden), family), golden


@pytest.mark.parametrize("name", FILES)
def test_golden_model(name: str) -> None:
    """Logits, loss, and every gradient under the authors' name for it."""
    network, golden = loaded(name)
    tokens = golden["tokens"]
    starts = tokens == 1 if golden.get("multi_document") else None
    assert (starts is not None) == (name in ("gecko_documents", "gecko_options"))
    logits, _ = network(tokens, document_starts=starts)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    compare({"logits": logits, "loss": loss}, {"logits": golden["logits"], "loss": golden["loss"]}, GOLDEN)
    config, gradients = dump_reference(network, gradients=True)
    compare(gradients, under("grad/", golden), GOLDEN)
    assert config == dump_reference(network)[0]


@pytest.mark.parametrize("name", FILES)
def test_dump_inverts_load(name: str) -> None:
    family, config, golden = read(name)
    parameters = under("param/", golden)
    network = load_reference(config, parameters, family)
    dumped_config, dumped = dump_reference(network)
    what = {key: value for key, value in config.items() if key != "efficient_attn"}  # which chooses how, not what
    assert dumped_config.items() >= what.items()
    assert dumped_config.keys() == CONFIG_DEFAULTS[family].keys()
    compare(dumped, parameters, 1e-7)  # the constants among them are computed anew
    again = load_reference(dumped_config, dumped, family)
    compare(dict(again.named_parameters()), dict(network.named_parameters()), 0.0)
    json.dumps(dumped_config)


def test_dumped_tensors_are_copies() -> None:
    network, golden = loaded("gecko_options")
    _, dumped = dump_reference(network)
    for tensor in dumped.values():
        tensor.zero_()
    _, dumped = dump_reference(network)
    compare(dumped, under("param/", golden), 1e-7)


def test_gradients_of_parameters_without_one_are_left_out() -> None:
    network, _ = loaded("gecko_single")
    assert dump_reference(network, gradients=True)[1] == {}
    network.output.weight.grad = torch.ones_like(network.output.weight)
    assert list(dump_reference(network, gradients=True)[1]) == ["output.output.weight"]


def test_arrays_and_other_dtypes_load() -> None:
    family, config, golden = read("gecko_single")
    parameters = {key: value.numpy() for key, value in under("param/", golden).items()}
    network = load_reference(config, parameters, family)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    half = {key: torch.from_numpy(value).bfloat16() for key, value in parameters.items() if "rope" not in key}
    assert {p.dtype for p in load_reference(config, half, family).parameters()} == {torch.bfloat16}


def test_constants_may_be_left_out() -> None:
    family, config, golden = read("megalodon_single")
    learned = {k: v for k, v in under("param/", golden).items() if "prior" not in k and "rope" not in k}
    compare(dump_reference(load_reference(config, learned, family))[1], under("param/", golden), 1e-7)


def test_the_output_of_tied_weights_may_be_left_out() -> None:
    family, config, golden = read("gecko_options")
    parameters = under("param/", golden)
    del parameters["output.output.weight"]
    network = load_reference(config, parameters, family)
    assert network.output.weight is network.embedding.weight


@st.composite
def configs(draw: st.DrawFn, family: Family) -> Config:
    """A tiny config of the authors', with any of their options."""
    heads, flags = draw(st.integers(1, 3)), st.booleans()
    groups = draw(st.sampled_from([1, 2, 4]))
    shared = {
        "num_layers": draw(st.integers(1, 2)),
        "model_dim": 4 * draw(st.integers(1, 3)),
        "num_heads": heads,
        "z_dim": heads * draw(st.sampled_from([2, 4])),
        "value_dim": heads * draw(st.integers(1, 3)),
        "ffn_hidden_dim": draw(st.integers(1, 9)),
        "cema_ndim": draw(st.integers(1, 4)),
        "chunk_size": draw(st.integers(1, 5)),
        "vocab_size": draw(st.integers(2, 9)),
        "norm_eps": draw(st.sampled_from([1e-5, 1e-3])),
        "rope_base": draw(st.sampled_from([100.0, 10_000.0])),
        "dropout": draw(st.sampled_from([0.0, 0.1])),
        "hidden_dropout": draw(st.sampled_from([0.0, 0.1])),
        "attention_dropout": draw(st.sampled_from([0.0, 0.1])),
        **{key: draw(flags) for key in ("norm_affine", "rescale_nffn", "scale_emb", "share_emb", "swiglu")},
    }
    if family == "megalodon":
        return shared | {"norm_num_groups": groups, "layerwise_ckpt": False, "efficient_attn": None}
    return shared | {
        "timenorm_num_groups": groups,
        "timenorm_beta1": draw(st.sampled_from([0.5, 0.999])),
        "timenorm_beta2": draw(st.sampled_from([0.5, 0.9999])),
        "layernorm_num_groups": draw(st.sampled_from([1, 2])),
        "two_hop_residual": draw(flags),
        "num_rope_heads": draw(st.none() | st.integers(0, heads - 1)),
    }


def shapes(config: Config, family: Family) -> dict[str, tuple[int, ...]]:
    """The learned tensors of a checkpoint by the authors' names, written down from their modules."""
    d, z, v, hidden = (config[key] for key in ("model_dim", "z_dim", "value_dim", "ffn_hidden_dim"))
    n, vocab = config["cema_ndim"], config["vocab_size"]
    mega, one = family == "megalodon", (1,) * (family == "megalodon")
    layer: dict[str, tuple[int, ...]] = {
        "mega.timenorm.weight": (d,), "mega.timenorm.bias": (d,),
        "mega.cema.alpha": (d, n, *one), "mega.cema.delta": (d, n, *one), "mega.cema.theta": (d, *one, *one),
        "mega.cema.gamma": (d, n, 2),
        "mega.wv.weight": (v, d), "mega.wv.bias": (v,), "mega.wz.weight": (z, d), "mega.wz.bias": (z,),
        "mega.wr.weight": (v, d), "mega.wr.bias": (v,), "mega.wh1.weight": (d, d), "mega.wh1.bias": (d,),
        "mega.wh2.weight": (d, v), "mega.gamma": (2 if mega else 4, z), "mega.beta": (2 if mega else 4, z),
        "nffn.fc1.weight": (hidden, d), "nffn.fc2.weight": (d, hidden),
    }  # fmt: skip
    if mega:
        layer["mega.cema.omega"] = (d, 1)
    if config["norm_affine"]:
        layer |= {"mega.rmsnorm.weight": (d,), "nffn.norm.weight": (d,), "nffn.norm.bias": (d,)}
    if config["swiglu"]:
        layer["nffn.fc3.weight"] = (hidden, d)
    if config["rescale_nffn"]:
        layer["nffn.alpha"] = (d,)
    layers = {f"layers.{i}.{name}": shape for i in range(config["num_layers"]) for name, shape in layer.items()}
    top = {"embed.weight": (vocab, d), "output.final_norm.weight": (d,), "output.final_norm.bias": (d,)}
    return layers | top | ({} if config["share_emb"] else {"output.output.weight": (vocab, d)})


@pytest.mark.parametrize("family", ["gecko", "megalodon"])
@given(data=st.data())
@settings(max_examples=20)
def test_random_checkpoints_there_and_back(family: Family, data: st.DataObject) -> None:
    config = data.draw(configs(family))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    tensors = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes(config, family).items()}
    network = load_reference(config, tensors, family)
    dumped_config, dumped = dump_reference(network)
    assert dumped_config == CONFIG_DEFAULTS[family] | config
    compare({name: dumped[name] for name in tensors}, tensors, 0.0)
    again = load_reference(dumped_config, dumped, family)
    tokens = torch.randint(config["vocab_size"], (2, 7), generator=generator)
    expected, _ = network.eval()(tokens)
    assert expected.isfinite().all()
    assert torch.equal(again.eval()(tokens)[0], expected)
    torch.manual_seed(1)  # dropouts were dumped, too
    expected, _ = network.train()(tokens)
    torch.manual_seed(1)
    compare({"logits": again.train()(tokens)[0]}, {"logits": expected}, TOLERANCE[torch.float32].forward)
