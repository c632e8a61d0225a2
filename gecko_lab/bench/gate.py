"""The gate before any timing: is it the same function?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gecko_lab.kernels.case import Case, Contender, Inputs

TOLERANCE: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-11, 1e-10),
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (5e-3, 2e-2),
}
"""RMS of the error over RMS of the reference, outputs and gradients, by the dtype of the activations.

float16 has no row: there an error of twice that of the reference in the same dtype must do."""


@dataclass(frozen=True)
class Verdict:
    """Whether a contender computes what the float64 reference does.

    Attributes:
        contender: its name.
        errors: relative RMS error of the output `y` and of the gradient of each input, by name.
        limits: the largest error that passes, under the same names.
        failure: what the contender raised, if it did not come to an end.
    """

    contender: str
    errors: dict[str, float]
    limits: dict[str, float]
    failure: str | None = None

    @property
    def green(self) -> bool:
        """Not-a-number is not green."""
        return self.failure is None and all(error <= self.limits[name] for name, error in self.errors.items())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"green": self.green, "errors": self.errors, "limits": self.limits, "failure": self.failure}


def check(case: Case[Any], dtype: torch.dtype, device: torch.device) -> list[Verdict]:
    """Compare every contender of a case that claims to compute the operation with the reference in float64.

    Each float64 value is computed from the same inputs, rounded to `dtype` beforehand. Below float32 an error of twice
    that of the reference in the same dtype passes too.

    Args:
        case: at its `check_shape`.
        dtype: of the activations.
        device: where to compute.

    Returns:
        One verdict for each contender, ours first.
    """
    inputs = {name: x.to(device) for name, x in case.inputs(case.check_shape, dtype).items()}
    exact = {name: x.double() if x.is_floating_point() else x for name, x in inputs.items()}
    expected = evaluate(case.reference, case, exact)
    forward, gradient = TOLERANCE.get(dtype, (0.0, 0.0))
    limits = {name: forward if name == "y" else gradient for name in expected}
    if dtype.itemsize < 4:
        rounded = evaluate(case.reference, case, inputs)
        limits = {name: max(limits[name], 2 * relative_error(rounded[name], expected[name])) for name in expected}
    alternatives = [one for problems in case.problems.values() for problem in problems for one in problem.alternatives]
    contenders = {one.name: one for one in (case.ours, *alternatives) if one.same}
    verdicts = []
    for contender in contenders.values():
        try:
            actual = evaluate(contender, case, inputs)
        except Exception as error:  # whatever a kernel raises is its verdict
            failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            verdicts.append(Verdict(contender.name, {}, limits, failure))
            continue
        errors = {name: relative_error(actual[name], expected[name]) for name in expected}
        verdicts.append(Verdict(contender.name, errors, limits))
    return verdicts


def evaluate(contender: Contender[Any], case: Case[Any], inputs: Inputs) -> dict[str, Tensor]:
    """The output `y` and the gradients `d<input>` for a seeded gradient of the output."""
    leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}
    y = contender.run(leaves, case.check_shape)
    generator = torch.Generator().manual_seed(1)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)
    y.backward(dy)
    gradients = {f"d{name}": x.grad for name, x in leaves.items() if x.requires_grad}
    absent = [name for name, gradient in gradients.items() if gradient is None]
    if absent:
        raise RuntimeError(f"no gradient reaches {', '.join(name[1:] for name in absent)}")
    return {"y": y.detach(), **{name: gradient for name, gradient in gradients.items() if gradient is not None}}


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """RMS of the error over RMS of the expected values, infinite where the shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    actual, expected = actual.double(), expected.double()
    return float((actual - expected).square().mean().sqrt() / expected.square().mean().sqrt())
