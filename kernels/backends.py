"""Which backend computes an operation: the best one that can, or the one that is named."""

import logging
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def choose_backend(operation: str, backend: str, backends: Sequence[str], x: Tensor) -> str:
    """The backend to call.

    Args:
        operation: its name, in messages.
        backend: "auto", or one of `backends`.
        backends: those of the operation, the best one first. "triton" is passed over by "auto" where it cannot run.
        x: the input, of which device and dtype decide.

    Raises:
        ValueError: the backend is unknown, or named and unable to run here; the message says why.
    """
    if backend == "auto":
        choice = next(name for name in backends if name != "triton" or triton_obstacle(x) is None)
        if not torch.compiler.is_compiling():  # which cannot trace a logger
            _log_choice(operation, choice, x.device.type)
        return choice
    if backend not in backends:
        known = ", ".join(["auto", *backends])
        raise ValueError(f"{operation} has no backend {backend!r}: choose one of {known}")
    if backend == "triton" and (why := triton_obstacle(x, interpreted=True)) is not None:
        raise ValueError(f"{operation}: the backend triton cannot run: {why}")
    return backend


def triton_obstacle(x: Tensor, *, interpreted: bool = False) -> str | None:
    """Why Triton kernels cannot compute with a tensor; None where they can.

    Args:
        x: any tensor of the computation.
        interpreted: whether Triton's interpreter will do, which computes on CPU and is for tests.
    """
    if find_spec("triton") is None:
        return "triton is not installed"
    if x.dtype == torch.float64:
        return "its kernels compute in float32; float64 is for the backends torch and reference"
    if x.device.type == "cuda":
        return None
    if interpreted and is_interpreting():
        return None
    return f"it needs a GPU, and the tensors are on {x.device.type}"


@torch.compiler.assume_constant_result
def is_interpreting() -> bool:
    """Whether Triton's kernels are interpreted rather than compiled (`TRITON_INTERPRET=1`)."""
    import triton

    return bool(triton.knobs.runtime.interpret)


@cache
def _log_choice(operation: str, choice: str, device: str) -> None:
    logger.info("%s: backend %s on %s", operation, choice, device)
