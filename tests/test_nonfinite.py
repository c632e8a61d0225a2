"""The search for the first non-finite module names exactly the one that a fault is planted in."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gecko_lab import LanguageModel
from gecko_lab.nonfinite import NonFinite, find_nonfinite
from gecko_lab.slots import Slot
from tests.callbacks.fits import VOCAB_SIZE, tiny_model
from tests.training import LAYER

TRANSFORMER = {"class_path": "TransformerLayer", "init_args": {"num_heads": 2, "hidden_dim": 16}}
TOKENS = torch.randint(VOCAB_SIZE, (2, 21), generator=torch.Generator().manual_seed(0))
NETWORKS: dict[str, dict[str, Any]] = {
    "gecko": {"num_layers": 2},
    "checkpointed": {"num_layers": 2, "checkpoint_layers": True},
    "hybrid": {"num_layers": 2, "tied_embedding": True, "layer": [LAYER, TRANSFORMER]},
}


class NaNGradient(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * torch.nan


def spoil(module: nn.Module, spoiled: Callable[[Tensor], Tensor]) -> None:
    """Let a module's first output pass through a function."""
    forward = module.forward

    def spoiling(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        return (spoiled(output[0]), *output[1:]) if isinstance(output, tuple) else spoiled(output)

    module.forward = spoiling


def model_of(name: str) -> LanguageModel:
    return tiny_model(NETWORKS[name])


def search(model: LanguageModel) -> NonFinite | None:
    return find_nonfinite(model, lambda: model.token_losses(TOKENS).mean())


def called(model: LanguageModel) -> list[str]:
    """The modules whose forward training calls."""
    names = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: names.append(name)) for name, module in model.named_modules()
    ]
    with torch.no_grad():
        model.token_losses(TOKENS)
    for hook in hooks:
        hook.remove()
    return names


def slots(model: LanguageModel, name: str) -> Iterator[str]:
    """The names of the slots around a module, itself included, inner ones first."""
    while name:
        if isinstance(model.get_submodule(name), Slot):
            yield name
        name = name.rpartition(".")[0]


@pytest.mark.parametrize("network", NETWORKS)
def test_find_nonfinite_finds_nothing_in_a_sound_model(network: str) -> None:
    assert search(model_of(network)) is None


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("phase", "value"), [("forward", torch.nan), ("forward", torch.inf), ("backward", None)])
def test_find_nonfinite_names_the_module_whichever_it_is(network: str, phase: str, value: float | None) -> None:
    healthy = model_of(network)
    names = called(healthy)
    assert {"network.embedding", "network.final_norm", "network.layers.0", "network.layers.0.memory"} <= set(names)
    for name in names:
        model = copy.deepcopy(healthy)
        module = model.get_submodule(name)
        spoil(module, NaNGradient.apply if value is None else lambda x: torch.full_like(x, value))
        found = search(model)
        component = next(slots(model, name), name)
        assert found is not None, name
        assert found.module == name
        assert found.module_class == type(module).__name__
        assert (found.component, found.component_class) == (component, type(model.get_submodule(component)).__name__)
        assert found.layer == (int(name.split(".")[2]) if name.startswith("network.layers.") else None)
        assert found.phase == ("parameter gradient" if (name, value) == ("network.embedding", None) else phase)


@pytest.mark.parametrize("bad", ["layers.1.timestep_norm", "layers.1", "layers.0.to_value"])
def test_find_nonfinite_names_a_weight(bad: str) -> None:
    model = model_of("gecko")
    parameter = next(model.network.get_submodule(bad).parameters(recurse=False))
    parameter.data.flatten()[-1] = torch.inf
    found = search(model)
    assert found is not None
    assert (found.phase, found.module) == ("parameters", f"network.{bad}")


def test_find_nonfinite_tells_an_overflow_in_the_loss() -> None:
    model = model_of("gecko")
    model.network.output.weight.data.mul_(1e38)
    found = search(model)
    assert found == NonFinite("loss", "", "LanguageModel", "", "LanguageModel", None)


def test_find_nonfinite_tells_a_gradient_that_breaks_in_the_loss() -> None:
    model = model_of("gecko")
    found = find_nonfinite(model, lambda: NaNGradient.apply(model.token_losses(TOKENS).mean()))
    assert found == NonFinite("backward", "", "LanguageModel", "", "LanguageModel", None)


@pytest.mark.parametrize("fault", [None, "forward", "backward"])
def test_find_nonfinite_changes_nothing(fault: str | None) -> None:
    model = tiny_model({"layer": {**LAYER, "dropout": 0.5}})
    model.network.layers[0].eval()
    if fault is not None:
        spoil(model.network.layers[1], NaNGradient.apply if fault == "backward" else lambda x: x * torch.nan)
    for parameter in list(model.parameters())[::2]:
        parameter.grad = torch.randn_like(parameter)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {p: None if p.grad is None else p.grad.clone() for p in model.parameters()}
    modes = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    assert (search(model) is None) == (fault is None)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for parameter, gradient in gradients.items():
        assert (parameter.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(parameter.grad, gradient)
