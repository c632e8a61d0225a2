"""Norms of components against norms by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gecko_lab import LanguageModel
from gecko_lab.callbacks import Norms
from gecko_lab.callbacks.norms import components
from gecko_lab.errors import ConfigurationError
from gecko_lab.slots import Slot
from tests.callbacks.fits import Samples, fit, logged, tiny_model
from tests.test_nonfinite import TRANSFORMER


def batches(count: int, begin: int = 0) -> list[Tensor]:
    return [Samples().tokens[i : i + 2] for i in range(begin, begin + 2 * count, 2)]


def by_hand(model: LanguageModel, tokens: list[Tensor]) -> dict[str, float]:
    """Every norm of a step on batches of tokens."""
    outputs: dict[str, list[Tensor]] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs.setdefault(name, []).append((output[0] if isinstance(output, tuple) else output).detach())

        return hook

    parts = {name: module for name, module in model.network.named_modules() if isinstance(module, Slot)}
    parts |= {"embedding": model.network.embedding, "output": model.network.output}
    hooks = [part.register_forward_hook(keep(name)) for name, part in parts.items()]
    model.zero_grad()
    torch.stack([model.token_losses(each).mean() for each in tokens]).mean().backward()
    for hook in hooks:
        hook.remove()
    expected = {
        f"activation_rms/{name}": torch.stack(each).double().square().mean().sqrt().item()
        for name, each in outputs.items()
    }
    for name, part in parts.items():
        if parameters := list(part.parameters()):
            flat = torch.cat([p.detach().flatten() for p in parameters])
            gradient = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            expected |= {f"parameter_norm/{name}": flat.norm().item(), f"gradient_norm/{name}": gradient.norm().item()}
    return expected


def names_logged(folder: Path) -> set[str]:
    header = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    return {name for name in header if name.split("/")[0] in ("activation_rms", "parameter_norm", "gradient_norm")}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "network",
    [{}, {"checkpoint_layers": True, "tied_embedding": True}, {"layer": [TRANSFORMER]}],
    ids=["gecko", "checkpointed", "transformer"],
)
def test_norms_are_those_by_hand(network: dict[str, Any], accumulate: int, tmp_path: Path) -> None:
    model = tiny_model(network, gradient_clip=0.01)
    expected = by_hand(model, batches(accumulate))
    fit(
        tmp_path,
        tiny_model(network, gradient_clip=0.01),
        [Norms(every_n_steps=1)],
        max_steps=1,
        accumulate_grad_batches=accumulate,
    )
    assert names_logged(tmp_path) - {"gradient_norm"} == set(expected)
    for name in ("layers.0", "layers.2.attention", "final_norm", "embedding"):
        assert f"activation_rms/{name}" in expected
    for name, value in expected.items():
        assert logged(tmp_path, name) == {0: pytest.approx(value, rel=1e-4)}, name
    parts = ("layers.0", "layers.1", "layers.2", "embedding", "final_norm", "output")
    squares = [
        logged(tmp_path, f"gradient_norm/{part}")[0] ** 2
        for part in parts
        if f"gradient_norm/{part}" in expected and not (part == "output" and network.get("tied_embedding"))
    ]
    assert logged(tmp_path, "gradient_norm")[0] == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)


def test_norms_are_logged_every_few_steps_and_leave_the_training_as_it_is(tmp_path: Path) -> None:
    model = tiny_model()
    fit(tmp_path / "with", model, [Norms(every_n_steps=3)], max_steps=7, log_every_n_steps=2)
    assert list(logged(tmp_path / "with", "gradient_norm/layers.0")) == [2, 5]
    assert not any(module._forward_hooks for module in model.modules())
    plain = tiny_model()
    fit(tmp_path / "without", plain, [Norms(every_n_steps=0)], max_steps=7, log_every_n_steps=2)
    assert not {name for name in names_logged(tmp_path / "without") if "/" in name}
    for name, value in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_norms_remove_their_hooks_when_training_breaks(tmp_path: Path) -> None:
    class Breaks(LanguageModel):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            super().training_step(batch, batch_idx)
            raise RuntimeError("broken")

    model = Breaks(network=tiny_model().hparams["network"], bos_id=0)
    with pytest.raises(RuntimeError, match="broken"):
        fit(tmp_path, model, [Norms(every_n_steps=1)], max_steps=1)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
def test_norms_see_the_output_of_a_compiled_layer(tmp_path: Path) -> None:
    expected = by_hand(tiny_model(), batches(1))
    model = tiny_model()
    for layer in model.network.layers:
        layer.compile(backend="eager", dynamic=False)
    compiled = [layer._compiled_call_impl for layer in model.network.layers]
    fit(tmp_path, model, [Norms(every_n_steps=1)], max_steps=1)
    activations = {name for name in names_logged(tmp_path) if name.startswith("activation_rms")}
    assert activations == {
        f"activation_rms/{name}" for name in ("embedding", "final_norm", *(f"layers.{i}" for i in range(3)))
    }
    for name in activations:
        assert logged(tmp_path, name)[0] == pytest.approx(expected[name], rel=1e-4)
    assert [layer._compiled_call_impl for layer in model.network.layers] == compiled


def test_norms_refuse_a_negative_interval() -> None:
    with pytest.raises(ConfigurationError, match=r"norms\.every_n_steps: .* got -1"):
        Norms(every_n_steps=-1)


def test_components_are_slots_embedding_and_output() -> None:
    names = list(components(tiny_model().network))
    assert names[:3] == ["embedding", "layers.0", "layers.0.timestep_norm"]
    assert names[-2:] == ["final_norm", "output"]
    assert len(names) == 3 + 3 * 6
