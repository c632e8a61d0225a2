"""How much an operation must do at least, and which share of the machine's limit a time is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from gecko_lab.bench.timing import PASSES

Sizes = Mapping[str, int]
"""A shape's fields."""


class Work(NamedTuple):
    """What one run must do at least.

    Attributes:
        flops: floating-point operations; a multiply-add is two. What is only computed again is not counted.
        bytes: read and written: every argument and gradient once.
    """

    flops: float
    bytes: float

    def seconds(self, ceilings: Mapping[str, Any]) -> float:
        """The least time on a machine that `machine.describe` has measured: of its copying or of its products."""
        moving = self.bytes / float(ceilings["copy_bytes_per_second"])
        return max(moving, self.flops / float(ceilings["matmul_flops_per_second"]))


def least_work(case: str, shape: Sizes, itemsize: int) -> dict[str, Work] | None:
    """The work of `forward` and `forward_backward`; None for an operation whose work is not known.

    Args:
        case: the operation's name.
        shape: of its problem.
        itemsize: bytes of an activation.
    """
    if case not in _WORK:
        return None
    flops, forward, both = _WORK[case](shape)
    # Of a product y = a b the backward pass computes two of the same size: da = dy b and db = a dy.
    works = (Work(flops, forward * itemsize), Work(3 * flops, both * itemsize))
    return dict(zip(PASSES, works, strict=True))


def _norm(of: Sizes) -> tuple[float, float, float]:
    elements = of["batch"] * of["length"] * of["num_features"]
    return 0, 2 * elements, 5 * elements  # x, y; then x, dy, dx


def _cema(of: Sizes) -> tuple[float, float, float]:
    elements = of["batch"] * of["length"] * of["num_features"]
    # a complex multiply-add and the real part of a complex product for each state
    return 12 * of["num_states"] * elements, 2 * elements, 5 * elements


def _attention(of: Sizes) -> tuple[float, float, float]:
    batch, length, heads, keys, values, chunk = (
        of[name] for name in ("batch", "length", "num_heads", "key_dim", "value_dim", "chunk_size")
    )
    first = min(length, chunk)
    pairs = first * (first + 1) / 2  # the first chunk sees itself alone
    whole, rest = divmod(length - first, chunk)
    pairs += whole * (chunk * chunk + chunk * (chunk + 1) / 2) + rest * chunk + rest * (rest + 1) / 2
    elements = batch * length * heads * 2 * (keys + values)
    return 2 * batch * heads * (keys + values) * pairs, elements, 3 * elements


def _working_memory(of: Sizes) -> tuple[float, float, float]:
    timesteps = of["B"] * of["L"] * of["H"]
    elements = timesteps * 2 * (of["S"] + of["V"])  # q, k, v, y
    return 3 * 2 * timesteps * of["S"] * of["V"], elements, 3 * elements


def _linear_cross_entropy(of: Sizes) -> tuple[float, float, float]:
    tokens, features, classes = of["num_tokens"], of["num_features"], of["num_classes"]
    elements = (tokens + classes) * features
    return 2.0 * tokens * features * classes, elements, 3 * elements


def _gated(of: Sizes) -> tuple[float, float, float]:
    elements = of["batch"] * of["length"] * of["num_features"]
    # gate, x, addend, y; then gate, x, dy, and the gradients of gate and x: that of the addend is dy itself
    return 0, 4 * elements, 9 * elements


def _head_norm(of: Sizes) -> tuple[float, float, float]:
    elements = of["batch"] * of["length"] * of["num_heads"] * of["key_dim"]
    # z and the maps, which are then joined; then z, their gradients, dz
    forward = (1 + 3 * of["num_maps"]) * elements
    return 0, forward, forward + (2 + of["num_maps"]) * elements


_WORK: dict[str, Callable[[Sizes], tuple[float, float, float]]] = {
    "attention": _attention,
    "cema": _cema,
    "gated": _gated,
    "grouped_norm": _norm,
    "head_norm": _head_norm,
    "linear_cross_entropy": _linear_cross_entropy,
    "timestep_norm": _norm,
    "working_memory": _working_memory,
}
"""FLOPs of the forward pass, and elements moved by it and by both passes."""
