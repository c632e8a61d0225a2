"""Networks by name: a family and a size, such as `gecko-15m`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gecko_lab.assembly import Tree, assemble, merge
from gecko_lab.errors import ConfigurationError, nearest
from gecko_lab.network import Network
from gecko_lab.yaml_files import read_yaml

MEGALODON_LAYER: Tree = {
    "class_path": "GeckoLayer",
    "init_args": {
        "timestep_norm": "TimestepNorm",
        "moving_average": {"class_path": "ComplexEMA", "init_args": {"learned_skip": True, "scaled": True}},
        "attention": "ChunkAttention",
        "memory": None,
        "two_hop_residual": True,
    },
}
FAMILIES: dict[str, Tree] = {
    "gecko": {"layer": "GeckoLayer"},
    "megalodon": {"layer": MEGALODON_LAYER},
    "llama": {"layer": "TransformerLayer"},
}
AUTHORS_VOCAB_SIZE = 32_000


def build(what: str | Path | Mapping[str, Any], **overrides: Any) -> Network:
    """Build a network.

    Args:
        what: a name (`"gecko-15m"`; families gecko, megalodon, llama), the keys of `model.network` as a mapping, or a
            YAML file that has them, at its top or under `model.network`.
        overrides: further keys of `model.network`, merged in: `vocab_size=8192`, `layer={"memory": None}`. The
            vocabulary is the authors' 32,000 where nothing says otherwise.

    Returns:
        The network, initialised, in training mode. Under `with torch.device("meta")` it takes no memory.

    Raises:
        ConfigurationError: for an unknown name, key, component, option or size.

    Example:
        >>> network = build("gecko-tiny", vocab_size=257, layer={"memory": "AdditiveMemory"})
    """
    tree = merge({"vocab_size": AUTHORS_VOCAB_SIZE}, _tree(what))
    return assemble(merge(tree, overrides), "network")


def _tree(what: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(what, Mapping):
        return what
    if isinstance(what, Path) or (isinstance(what, str) and what.endswith((".yaml", ".yml"))):
        return _read(Path(what))
    family, _, size = what.partition("-") if isinstance(what, str) else ("", "", "")
    if family not in FAMILIES or not size:
        hint = "" if family in FAMILIES else nearest(family, FAMILIES)
        raise ConfigurationError(
            f"unknown network {what!r}: expected FAMILY-SIZE{hint}, for example gecko-15m, or a .yaml file"
        )
    return {**FAMILIES[family], "size": size}


def _read(path: Path) -> Mapping[str, Any]:
    tree: Any = read_yaml(path)
    if {"model", "data", "trainer"} & set(tree):  # a training configuration
        model = tree.get("model") or {}
        tree = model.get("network") or {} if isinstance(model, Mapping) else None
    if not isinstance(tree, Mapping):
        raise ConfigurationError(f"{path}: expected keys and values under model.network")
    return tree
