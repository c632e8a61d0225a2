"""What a probe sees of whole networks: every component of the catalogue, hybrids, checkpointed and compiled layers."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gecko_lab import Network, build
from gecko_lab.components.layer.gecko import GeckoLayer
from gecko_lab.components.memory.chunked import ChunkedMemory
from gecko_lab.components.moving_average.damped import DampedEMA
from gecko_lab.microscope.alarms import Alarms
from gecko_lab.microscope.probe import Probe, outermost_layers
from gecko_lab.microscope.seen import Seen
from gecko_lab.registry import SLOTS, components
from gecko_lab.slots import Layer, Memory, MovingAverage
from tests.networks import HYBRID, NETWORKS, C, small, tokens_of

LENGTH = 5 * C + 1


def look(network: Network, tokens: Tensor, backward: bool = False) -> tuple[Probe, dict[str, Seen]]:
    """What is seen of one batch, by place."""
    probe = Probe(network)
    probe.install()
    hidden, _ = network.hidden(tokens)
    probe.remove()
    if backward:
        hidden.sum().backward()
    results = probe.results()
    assert not any(module._forward_hooks for module in network.modules())
    return probe, {f"{layer}/{part}": seen for layer, parts in results.items() for part, seen in parts.items()}


def metrics_of(seen: dict[str, Seen]) -> dict[str, float]:
    return {f"{place}/{name}": value for place, one in seen.items() for name, value in one.metrics().items()}


GECKO_PARTS = {
    *("timestep_norm", "moving_average", "memory", "attention"),
    *("gates/r", "gates/v", "gates/feed_forward.W_1"),
}


def test_parts_of_every_layer_that_are_seen() -> None:
    _, seen = look(small("hybrid"), tokens_of(LENGTH))
    expected = {f"layers.0/{part}" for part in GECKO_PARTS} | {"layers.1/gates/feed_forward.W_1"}
    expected |= {f"layers.2/{part}" for part in GECKO_PARTS - {"attention", "gates/r"}}
    assert set(seen) == expected
    _, seen = look(small("llama"), tokens_of(LENGTH))
    assert set(seen) == {f"layers.{i}/gates/feed_forward.W_1" for i in range(2)}
    _, seen = look(small("megalodon"), tokens_of(LENGTH))
    assert set(seen) == {f"layers.{i}/{part}" for i in range(2) for part in GECKO_PARTS - {"attention", "memory"}}
    assert metrics_of(seen)["layers.0/timestep_norm/mean_horizon"] == math.inf


def test_numbers_of_a_layer_are_those_by_hand() -> None:
    network, tokens = small("gecko", num_layers=1), tokens_of(LENGTH)
    (layer,) = network.layers
    assert isinstance(layer, GeckoLayer)
    outputs: dict[str, Tensor] = {}
    for name in ("attention", "memory", "to_gate", "to_value"):
        layer.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: outputs.update(
                {name: (output[0] if isinstance(output, tuple) else output).detach()}
            )
        )
    network.hidden(tokens)
    for name in ("attention", "memory", "to_gate", "to_value"):
        layer.get_submodule(name)._forward_hooks.clear()
    _, seen = look(network, tokens)
    metrics = metrics_of(seen)
    read = slice(2 * C, None)
    a = (outputs["attention"].flatten(2) * F.silu(outputs["to_gate"]))[:, read].norm()
    w = outputs["memory"][:, read].norm()
    v = F.silu(outputs["to_value"])
    assert metrics["layers.0/attention/share"] == pytest.approx((a / (a + w)).item(), rel=1e-5)
    assert metrics["layers.0/memory/read_mass"] == pytest.approx((w / v.norm()).item(), rel=1e-5)
    assert metrics["layers.0/memory/readers"] == pytest.approx((3 * C + 1) / LENGTH)
    closed = (outputs["to_gate"].sigmoid() < 0.01).float().mean().item()
    assert metrics["layers.0/gates/r/closed"] == pytest.approx(closed)
    assert metrics["layers.0/timestep_norm/mean_horizon"] == pytest.approx(1000)
    assert metrics["layers.0/timestep_norm/variance_horizon"] == pytest.approx(10_000)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("slot", "name"), [(slot, name) for slot in SLOTS for name in components(SLOTS[slot])])
def test_no_alarm_at_the_start_of_any_component(slot: str, name: str, precision: torch.dtype) -> None:
    layer: Any = name if slot == "layer" else {slot: name}
    network = build("gecko-tiny", layer=layer, num_layers=2, vocab_size=256)
    alarms = Alarms()
    for seed in range(3):
        tokens = torch.randint(256, (2, 640), generator=torch.Generator().manual_seed(seed))
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            _, seen = look(network, tokens)
        assert seen
        assert alarms.judge({place: one.findings() for place, one in seen.items()}) == []
    numbers = metrics_of(seen)
    assert not any(math.isnan(value) for value in numbers.values())


@pytest.mark.parametrize("memory", ["AdaptiveWorkingMemory", "AdditiveMemory", None])
def test_each_part_is_looked_at_once(memory: str | None) -> None:
    options = NETWORKS["gecko"]["layer"] | {"memory": memory}
    counts = []
    for checkpoint in (False, True):
        network = small("gecko", layer=options, checkpoint_layers=checkpoint)
        probe, seen = look(network, tokens_of(LENGTH), backward=True)
        counts.append((probe.calls, metrics_of(seen)))
    # a norm, an average and three gates; with a memory its own, three samples and their comparison
    assert counts[0][0] == counts[1][0] == 2 * (5 + (0 if memory is None else 5))
    assert counts[0][1] == counts[1][1]


def test_passes_without_gradient_and_later_ones_do_not_count() -> None:
    network = small("gecko")
    probe = Probe(network)
    probe.install()
    with torch.no_grad():
        network.hidden(tokens_of(1))
    assert probe.calls == 0
    network.hidden(tokens_of(LENGTH))
    first = {layer: {p: s.metrics() for p, s in parts.items()} for layer, parts in probe.results().items()}
    network.hidden(tokens_of(LENGTH, seed=1))
    probe.remove()
    again = {layer: {p: s.metrics() for p, s in parts.items()} for layer, parts in probe.results().items()}
    assert first == again


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch.compile looks at it
def test_a_compiled_layer_shows_its_parameters_alone() -> None:
    network, tokens = small("hybrid"), tokens_of(LENGTH)
    _, open_seen = look(network, tokens)
    network.layers[0].compile(backend="eager", dynamic=False)
    probe, seen = look(network, tokens)
    assert probe.hidden == ["layers.0"]
    assert set(seen) == {place for place in open_seen if not place.startswith("layers.0/")}
    probe.look_at_parameters()
    shown = probe.results()["layers.0"]
    assert set(shown) == {"moving_average", "timestep_norm"}
    for part, one in shown.items():
        assert one.metrics() == open_seen[f"layers.0/{part}"].metrics()


def test_components_that_show_nothing_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of other people's packages."""
    monkeypatch.setattr(ChunkedMemory, "write_ratios", Memory.write_ratios)
    monkeypatch.setattr(ChunkedMemory, "contents", Memory.contents)
    monkeypatch.setattr(DampedEMA, "spectrum", MovingAverage.spectrum)
    monkeypatch.setattr(GeckoLayer, "summands", Layer.summands)
    monkeypatch.setattr(GeckoLayer, "list_gates", Layer.list_gates)
    _, seen = look(small("gecko", num_layers=1), tokens_of(LENGTH))
    assert set(seen) == {"layers.0/timestep_norm", "layers.0/memory", "layers.0/gates/feed_forward.W_1"}
    assert set(seen["layers.0/memory"].metrics()) == {"read_mass", "readers"}
    assert seen["layers.0/memory"].findings() == []


def test_dead_parts_are_found_where_they_were_planted() -> None:
    network = small("gecko")
    first, second = network.layers
    with torch.no_grad():
        first.moving_average.delta[3, 5] = -60.0
        second.to_gate.weight.zero_()
        second.to_gate.bias.fill_(-12.0)
    alarms = Alarms()
    told = []
    for seed in range(3):
        _, seen = look(network, tokens_of(LENGTH, seed=seed))
        told.append(alarms.judge({place: one.findings() for place, one in seen.items()}))
    assert [sentence.split(":")[0] for sentence in told[0]] == ["layers.0/moving_average", "layers.1/gates/r"]
    assert told[1] == []
    # behind a gate of silu(-12) = -7e-5 attention adds nothing either
    assert [sentence.split(":")[0] for sentence in told[2]] == ["layers.1/attention"]


def test_outermost_layers_of_a_network() -> None:
    assert list(outermost_layers(small("hybrid"))) == [f"layers.{i}" for i in range(len(HYBRID))]
