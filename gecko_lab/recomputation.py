"""What the backward pass computes again instead of the forward pass keeping it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Recomputation = bool | Literal["selective"]

_MIXING = ("attention", "cema", "working_memory", "_scaled_dot_product")
"""How the names of operations begin that look at other timesteps: slow for the size of their results."""
_PRODUCTS = {torch.ops.aten.mm.default: 0, torch.ops.aten.addmm.default: 1, torch.ops.aten.bmm.default: 0}
"""Matrix products, and where their first factor stands."""


def recomputed(layer: Callable[..., Any], *inputs: Any, how: Literal[True, "selective"]) -> Any:
    """Call a layer and keep less than it does for the backward pass; values and gradients stay bit for bit the same.

    Args:
        layer: any module.
        inputs: its arguments.
        how: `True` keeps the inputs alone and computes all again, a third more work; `"selective"` also keeps what is
            slow for its size: the results of attention, moving average and memory, and of linear maps that have fewer
            outputs than inputs.
    """
    if how == "selective":
        contexts = functools.partial(create_selective_checkpoint_contexts, _policy)
        return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)
    return checkpoint(layer, *inputs, use_reentrant=False)


def _policy(context: Any, operation: Any, *arguments: Any, **named: Any) -> CheckpointPolicy:
    if operation in _PRODUCTS:
        first = arguments[_PRODUCTS[operation]]
        keep = first.shape[-1] > arguments[_PRODUCTS[operation] + 1].shape[-1]
    else:
        keep = operation.name().partition("::")[2].startswith(_MIXING)
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE
