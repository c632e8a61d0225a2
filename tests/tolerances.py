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
"""A whole component or layer in bfloat16, where several roundings of 2⁻⁹ follow each other, against itself in float32."""

GOLDEN_FOLDER = Path(__file__).parent / "golden"


def rms_error(actual: Tensor, expected: Tensor) -> float:
    """RMS of the error over RMS of the expected values; where these are all zero, RMS of the error itself.

    Not-a-number anywhere gives not-a-number, which is below no limit.
    """
    assert actual.shape == expected.shape, f"{list(actual.shape)} is not {list(expected.shape)}"
    if not expected.numel():
        return 0.0
    actual, expected = actual.detach().double(), expected.detach().double()
    scale = expected.square().mean().sqrt()
    error = (actual - expected).square().mean().sqrt()
    return float(error / scale if scale > 0 else error)


def compare(actual: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None], limit: float) -> None:
    """Compare tensors by name; the message gives the error of each one that is off."""
    assert actual.keys() == expected.keys(), f"not the same names: {sorted(actual.keys() ^ expected.keys())}"
    off = {}
    for name, reference in expected.items():
        value = actual[name]
        assert value is not None, f"{name}: there is none"
        assert reference is not None, f"{name}: there is no reference"
        error = rms_error(value, reference)
        if not error <= limit:
            off[name] = error
    assert not off, f"relative RMS errors above {limit:g}: {off}"


def load_golden(name: str) -> dict[str, Tensor]:
    """The tensors of a file in `golden/` by name; a `config` of text is left out."""
    with np.load(GOLDEN_FOLDER / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind != "U"}
