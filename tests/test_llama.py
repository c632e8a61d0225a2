"""The Llama configuration against `transformers.LlamaForCausalLM` with the same weights."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gecko_lab import Network, build
from tests.tolerances import TOLERANCE, compare

transformers = pytest.importorskip("transformers")

CONFIGS: dict[str, dict[str, Any]] = {
    "heads": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "grouped": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48, "rms_norm_eps": 1e-3},
    "one-key-head": {"num_attention_heads": 4, "num_key_value_heads": 1, "rope_theta": 100.0},
    "tied": {"num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": True, "num_hidden_layers": 3},
}


def theirs(**options: Any) -> Any:
    """A random model: no norm weight is one, projections are wide enough for attention to be sharp."""
    base = {"vocab_size": 29, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2}
    options = base | {"rope_theta": 10_000.0, "rms_norm_eps": 1e-5, "tie_word_embeddings": False} | options
    theta = options.pop("rope_theta")
    config = transformers.LlamaConfig(
        **options,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return model.eval()


def neighbours(weight: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection from their order (i with i + S/2 is a pair) to ours (2i with 2i + 1)."""
    return weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def ours(model: Any) -> Network:
    """The same network from our parts, with the model's weights."""
    config = model.config
    network = build(
        "llama-tiny",
        vocab_size=config.vocab_size,
        num_layers=config.num_hidden_layers,
        model_dim=config.hidden_size,
        tied_embedding=config.tie_word_embeddings,
        layer={
            "num_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "hidden_dim": config.intermediate_size,
            "norm_eps": config.rms_norm_eps,
            "attention": {"rope_base": config.rope_parameters["rope_theta"]},
        },
    )
    weights = model.state_dict()
    converted = {
        "embedding.weight": weights["model.embed_tokens.weight"],
        "final_norm.norm.weight": weights["model.norm.weight"] - 1,
        "output.weight": weights["lm_head.weight"],
    }
    for i in range(config.num_hidden_layers):
        prefix = f"model.layers.{i}"
        for name, source in {
            "attention_norm.weight": weights[f"{prefix}.input_layernorm.weight"] - 1,
            "to_query.weight": neighbours(weights[f"{prefix}.self_attn.q_proj.weight"], config.num_attention_heads),
            "to_key.weight": neighbours(weights[f"{prefix}.self_attn.k_proj.weight"], config.num_key_value_heads),
            "to_value.weight": weights[f"{prefix}.self_attn.v_proj.weight"],
            "to_output.weight": weights[f"{prefix}.self_attn.o_proj.weight"],
            "feed_forward_norm.weight": weights[f"{prefix}.post_attention_layernorm.weight"] - 1,
            "feed_forward.fc1.weight": weights[f"{prefix}.mlp.gate_proj.weight"],
            "feed_forward.fc2.weight": weights[f"{prefix}.mlp.down_proj.weight"],
            "feed_forward.fc3.weight": weights[f"{prefix}.mlp.up_proj.weight"],
        }.items():
            converted[f"layers.{i}.{name}"] = source
    network.load_state_dict(converted, strict=True)
    return network


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients(name: str) -> None:
    model = theirs(**CONFIGS[name])
    network = ours(model)
    assert network.num_parameters() == model.num_parameters()
    tokens = torch.randint(model.config.vocab_size, (2, 37))
    expected, (actual, _) = model(tokens).logits, network(tokens)
    compare({"logits": actual}, {"logits": expected}, TOLERANCE[torch.float32].forward)
    weights = torch.randn(expected.shape)
    (expected * weights).sum().backward()
    (actual * weights).sum().backward()
    found = {"embedding": network.embedding.weight.grad, "down": network.layers[0].feed_forward.fc2.weight.grad}
    layer = model.model.layers[0]
    reference = {"embedding": model.model.embed_tokens.weight.grad, "down": layer.mlp.down_proj.weight.grad}
    found["query"] = network.layers[0].to_query.weight.grad
    reference["query"] = neighbours(layer.self_attn.q_proj.weight.grad, model.config.num_attention_heads)
    compare(found, reference, TOLERANCE[torch.float32].gradient)


def test_decoding_with_a_state_as_theirs_with_a_cache() -> None:
    model = theirs(**CONFIGS["grouped"])
    network, tokens = ours(model), torch.randint(29, (2, 20))
    with torch.no_grad():
        expected = model(tokens).logits
        logits, state = network(tokens[:, :11])
        pieces = [logits]
        for t in range(11, 20):
            logits, state = network(tokens[:, t : t + 1], state)
            pieces.append(logits)
    compare({"logits": torch.cat(pieces, dim=1)}, {"logits": expected}, TOLERANCE[torch.float32].forward)
