"""Small networks of every family, and what the tests of whole networks do with them."""

from typing import Any

import torch
from torch import Tensor

from gecko_lab import Network, build

C = 4
VOCAB_SIZE = 11
LAYER = {"num_heads": 2, "z_dim": 8, "value_dim": 12, "hidden_dim": 10, "chunk_size": C}
LLAMA_LAYER = {"num_heads": 4, "num_key_value_heads": 2, "hidden_dim": 10, "chunk_size": C}
HYBRID: list[dict[str, Any]] = [
    {"class_path": "GeckoLayer", "init_args": LAYER},
    {"class_path": "TransformerLayer", "init_args": LLAMA_LAYER | {"attention": "SlidingWindowAttention"}},
    {
        "class_path": "GeckoLayer",
        "init_args": LAYER | {"attention": None, "moving_average": "RealEMA", "memory": {"capacity": 2}},
    },
]
NETWORKS: dict[str, dict[str, Any]] = {
    "gecko": {"what": "gecko-tiny", "layer": LAYER},
    "megalodon": {"what": "megalodon-tiny", "layer": LAYER, "scale_embedding": True},
    "llama": {"what": "llama-tiny", "layer": LLAMA_LAYER, "tied_embedding": True},
    "hybrid": {"what": {"size": "tiny"}, "layer": HYBRID, "num_layers": 3},
}


def small(name: str, **overrides: Any) -> Network:
    """A network of the name, the same at every call: no parameter is zero or at its start."""
    torch.manual_seed(0)
    options = {"num_layers": 2, "model_dim": 8, "vocab_size": VOCAB_SIZE} | NETWORKS[name] | overrides
    network = build(options.pop("what"), **options)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return network


def tokens_of(length: int, batch: int = 2, seed: int = 0) -> Tensor:
    """Random tokens `[batch, length]`."""
    return torch.randint(VOCAB_SIZE, (batch, length), generator=torch.Generator().manual_seed(seed))
