"""The gate of whole models: green for ours as they are, red as soon as one operation is a little wrong."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from gecko_lab.bench.model_gate import check_decoding, check_training, reference_backends
from gecko_lab.bench.models import Recipe
from gecko_lab.components.moving_average import damped

CPU = torch.device("cpu")
GECKO = Recipe("gecko", "gecko", "15m", 32_000)


def plant(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Let the moving average be wrong where it is not asked for its reference."""
    right = damped.cema

    def wrong(*arguments: Any, backend: str = "auto") -> tuple[Tensor, Tensor]:
        y, state = right(*arguments, backend=backend)
        if backend == "reference":
            return y, state
        if what == "raises":
            raise RuntimeError("no kernel\nimage is available")
        if what == "gradient":
            y = y + 0.01 * (y - y.detach())
        if what == "state":
            state = state * 1.01
        return (y * 1.01 if what == "output" else y * math.nan if what == "nan" else y), state

    wrong.__module__ = right.__module__
    monkeypatch.setattr(damped, "cema", wrong)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("family", ["gecko", "megalodon"])
def test_check_training_is_green(family: str, precision: Any) -> None:
    verdict = check_training(Recipe(family, family, "15m", 32_000), precision, CPU)
    assert verdict.green, verdict
    assert set(verdict.errors) == {"y", "gradient"}
    assert all(error > 0 for error in verdict.errors.values()), "compared with itself?"


@pytest.mark.parametrize("family", ["gecko", "megalodon", "llama"])
def test_check_decoding_is_green(family: str) -> None:
    verdict = check_decoding(Recipe(family, family, "15m", 32_000), "32-true", CPU)
    assert verdict.green, verdict
    assert set(verdict.errors) == {"y"}


@pytest.mark.parametrize(
    ("what", "red"), [("output", ["y", "gradient"]), ("gradient", ["gradient"]), ("nan", []), ("raises", [])]
)
def test_check_training_is_red(what: str, red: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, what)
    verdict = check_training(GECKO, "32-true", CPU)
    assert not verdict.green
    assert [name for name, error in verdict.errors.items() if not error <= verdict.limits[name]] == red
    assert verdict.failure == {
        "nan": "the logits or gradients are not finite",
        "raises": "RuntimeError: no kernel image is available",
    }.get(what)


def test_check_decoding_sees_a_wrong_state(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "state")
    assert check_training(GECKO, "32-true", CPU).green
    assert not check_decoding(GECKO, "32-true", CPU).green


def test_check_training_of_another_library_asks_for_finite_values() -> None:
    pytest.importorskip("transformers")
    for family in ("transformers-llama", "transformers-mamba2"):
        verdict = check_training(Recipe(family, family, "15m", 32_000), "32-true", CPU)
        assert verdict.green
        assert not verdict.errors


def test_reference_backends_puts_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    right = damped.cema

    def listening(*arguments: Any, backend: str = "auto") -> tuple[Tensor, Tensor]:
        asked.append(backend)
        return right(*arguments, backend=backend)

    listening.__module__ = right.__module__
    monkeypatch.setattr(damped, "cema", listening)
    average = damped.DampedEMA.__subclasses__()[0](4)  # type: ignore[abstract, call-arg, arg-type]
    x = torch.randn(1, 3, 4)
    average(x)
    with pytest.raises(ValueError, match="p must be"), reference_backends():
        average(torch.cat((x, average(x)[0]), dim=-1))  # of 8 features rather than 4
    average(x)
    assert asked == ["auto", "reference", "reference", "auto"]
