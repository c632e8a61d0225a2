"""How near is near enough: one table for every test, and the one measure that it is written in."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Limits(NamedTuple):
    """RMS of the error over RMS of the reference."""

    forward: float
    gradient: float


TOLERANCE = {
    torch.float64: Limits(forward=1e-11, gradient=1e-10),
    torch.float32: Limits(forward=1e-5, gradient=1e-4),
    torch.bfloat16: Limits(forward=5e-3, gradient=2e-2),
}
"""One operation, or the same computation in two ways, by the dtype of its activations."""

GOLDEN = 2e-5
"""Float32 against the vectors in `golden/`, outputs and gradients alike."""

BFLOAT16_COMPONENT = 3e-2
"""A whole component or layer in bfloat16, where several roundings of 2⁻⁹ follow each other, against float32."""

FLOOR = 1e-3
"""See `compare`: where random streams make gradients cancel exactly."""

GOLDEN_FOLDER = Path(__file__).parent / "golden"


def rms(x: Tensor) -> float:
    """Root mean square; zero of no elements."""
    return float(x.detach().double().square().mean().sqrt()) if x.numel() else 0.0


def rms_error(actual: Tensor, expected: Tensor, at_least: float = 0.0) -> float:
    """RMS of the error over RMS of the expected values; where these are all zero, RMS of the error itself.

    Not-a-number anywhere gives not-a-number, which is below no limit.

    Args:
        actual: `[...]`.
        expected: `[...]`.
        at_least: the least RMS that the error is compared with.
    """
    assert actual.shape == expected.shape, f"{list(actual.shape)} is not {list(expected.shape)}"
    scale, error = max(rms(expected), at_least), rms(actual.detach().double() - expected.detach().double())
    return error / scale if scale > 0 else error


def compare(
    actual: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None], limit: float, floor: float = 0.0
) -> None:
    """Compare tensors by name; the message gives the error of each one that is off.

    Args:
        actual: tensors.
        expected: tensors of the same names.
        limit: of `rms_error`.
        floor: share of the largest tensor's RMS that every error is at least compared with. A gradient that cancels
            exactly (of the softmax over a memory that holds one timestep) is rounding alone, of no size of its own.
    """
    assert actual.keys() == expected.keys(), f"not the same names: {sorted(actual.keys() ^ expected.keys())}"
    largest = max((rms(x) for x in expected.values() if x is not None), default=0.0)
    off = {}
    for name, reference in expected.items():
        value = actual[name]
        assert value is not None, f"{name}: there is none"
        assert reference is not None, f"{name}: there is no reference"
        error = rms_error(value, reference, floor * largest)
        if not error <= limit:
            off[name] = error
    assert not off, f"relative RMS errors above {limit:g}: {off}"


def load_golden(name: str) -> dict[str, Tensor]:
    """The tensors of a file in `golden/` by name; a `config` of text is left out."""
    with np.load(GOLDEN_FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind != "U"}
