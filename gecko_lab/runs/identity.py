"""What makes two runs the same run: a hash of every setting that changes the result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

# Settings that change where, how fast or how visibly a run trains, but not what it learns.
_WITHOUT_EFFECT = {
    *("checkpoint", "text_sample", "summary", "norms", "microscope"),
    *("weights_only", "load_from_checkpoint"),
    *(f"data.{name}" for name in ("cache_folder", "folder", "num_workers", "progress", "strict", "cache_bytes")),
    *(f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm")),
    *(f"trainer.{name}" for name in ("logger", "log_every_n_steps", "default_root_dir", "profiler", "barebones")),
    *(f"trainer.{name}" for name in ("enable_progress_bar", "enable_model_summary", "enable_checkpointing")),
    *("trainer.enable_autolog_hparams", "trainer.use_distributed_sampler", "trainer.model_registry"),
}
# With the tokens of a step given, these follow from the number of devices.
_FOLLOWING = {"data.batch_size", "trainer.accumulate_grad_batches"}


def identity_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the identity is made of, by their dotted keys.

    Args:
        settings: all settings of a `fit`, resolved.
    """
    left_out = set(_WITHOUT_EFFECT)
    optimizer = (settings.get("model") or {}).get("optimizer") or {}
    if optimizer.get("batch_tokens") is not None:
        left_out |= _FOLLOWING
    return dict(_leaves(settings, "", left_out))


def identity(settings: Mapping[str, Any]) -> str:
    """Hash of the settings that change the result: 16 hexadecimal digits."""
    text = json.dumps(identity_settings(settings), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The keys in which the identities of two settings differ."""
    a, b = identity_settings(ours), identity_settings(theirs)
    return sorted(key for key in {*a, *b} if a.get(key, _ABSENT) != b.get(key, _ABSENT))


_ABSENT = object()


def _leaves(tree: Any, prefix: str, left_out: set[str]) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            name = f"{prefix}{key}"
            if name not in left_out:
                yield from _leaves(value, f"{name}.", left_out)
    else:
        yield prefix.removesuffix("."), tree
