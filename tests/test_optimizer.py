"""Which parameters decay, how the learning rate moves, and how long a training is."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab import build
from gecko_lab.durations import in_steps
from gecko_lab.errors import ConfigurationError
from gecko_lab.optimizer import OptimizerSettings, build_optimizer, decayed_parameters, learning_rate_factor

GECKO_LINEAR = ["to_z", "to_value", "from_value", "to_gate", "to_output"]
SWIGLU = ["feed_forward.fc1", "feed_forward.fc2", "feed_forward.fc3"]
EXPECTED = {
    "gecko": [*GECKO_LINEAR, *SWIGLU],
    "megalodon": [*GECKO_LINEAR, *SWIGLU],
    "llama": ["to_query", "to_key", "to_value", "to_output", *SWIGLU],
}


@pytest.mark.parametrize("family", EXPECTED)
def test_decayed_parameters_are_linear_maps_and_embeddings(family: str) -> None:
    with torch.device("meta"):
        network = build(f"{family}-tiny", num_layers=1)
    expected = {"embedding.weight", "output.weight", *(f"layers.0.{name}.weight" for name in EXPECTED[family])}
    assert decayed_parameters(network) == expected
    others = {name for name, _ in network.named_parameters()} - expected
    assert others
    assert all(p.ndim == 2 for name, p in network.named_parameters() if name in expected)


@pytest.mark.parametrize("memory", ["AdaptiveWorkingMemory", "AdditiveMemory"])
def test_decayed_parameters_has_the_feature_map_of_the_memory(memory: str) -> None:
    layer = {"memory": {"class_path": memory, "init_args": {"capacity": 2}}}
    with torch.device("meta"):
        network = build("gecko-tiny", num_layers=1, layer=layer)
    assert "layers.0.memory.feature_map" in decayed_parameters(network)


def test_decayed_parameters_of_tied_embeddings_are_given_once() -> None:
    network = build("llama-tiny", num_layers=1, model_dim=16, tied_embedding=True, vocab_size=7)
    optimizer = build_optimizer(network, OptimizerSettings())
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters}) == len(list(network.parameters()))
    assert any(p is network.embedding.weight for p in optimizer.param_groups[0]["params"])


def test_build_optimizer_decays_only_the_first_group() -> None:
    settings = OptimizerSettings(lr=0.01, betas=(0.8, 0.9), eps=1e-7, weight_decay=0.5)
    network = build("gecko-tiny", num_layers=1, model_dim=16, vocab_size=7)
    optimizer = build_optimizer(network, settings)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert all((g["lr"], g["betas"], g["eps"]) == (0.01, (0.8, 0.9), 1e-7) for g in optimizer.param_groups)
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    decayed = decayed_parameters(network)
    for name, parameter in network.named_parameters():
        expected = before[name] * (1 - 0.01 * 0.5) if name in decayed else before[name]
        torch.testing.assert_close(parameter, expected, msg=name)


def test_build_optimizer_leaves_out_frozen_parameters() -> None:
    network = build("gecko-tiny", num_layers=1, model_dim=16, vocab_size=7)
    network.embedding.weight.requires_grad_(False)
    parameters = [p for group in build_optimizer(network, OptimizerSettings()).param_groups for p in group["params"]]
    assert len(parameters) == len(list(network.parameters())) - 1


def factors(schedule: Any, steps: int, warmup: int, decay: float = 0.2, final: float = 0.1) -> list[float]:
    factor = learning_rate_factor(schedule, steps, warmup, decay, final)
    return [factor(step) for step in range(steps)]


def test_learning_rate_factor_at_named_steps() -> None:
    assert factors("linear", 11, 0, final=0.0) == pytest.approx([1 - i / 10 for i in range(11)])
    cosine = factors("cosine", 11, 0, final=0.2)
    assert (cosine[0], cosine[5], cosine[10]) == pytest.approx((1.0, 0.6, 0.2))
    assert cosine[2] == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi * 0.2)) / 2)
    assert factors("constant", 5, 2) == pytest.approx([1 / 3, 2 / 3, 1, 1, 1])
    wsd = factors("wsd", 20, 4, decay=0.25, final=0.0)
    assert wsd[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert wsd[4:16] == pytest.approx([1.0] * 12)
    assert wsd[15:] == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0])


@given(
    schedule=st.sampled_from(["cosine", "linear", "wsd"]),
    steps=st.integers(2, 300),
    warmup=st.integers(0, 298),
    decay=st.floats(0.05, 1.0),
    final=st.floats(0.0, 1.0),
)
def test_learning_rate_factor_rises_then_falls_to_the_final_ratio(
    schedule: Any, steps: int, warmup: int, decay: float, final: float
) -> None:
    warmup = min(warmup, steps - 2)
    values = factors(schedule, steps, warmup, decay, final)
    assert all(0 < value < 1 for value in values[:warmup])
    assert all(a < b for a, b in pairwise(values[: warmup + 1]))
    assert values[warmup] == pytest.approx(1.0)
    assert all(a >= b - 1e-12 for a, b in pairwise(values[warmup:]))
    if schedule != "wsd" or round(decay * steps) >= 2:  # a decay of one step has nothing to go through
        assert values[-1] == pytest.approx(final)
        assert learning_rate_factor(schedule, steps, warmup, decay, final)(steps + 7) == pytest.approx(final)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 0.0),
        ("lr", float("nan")),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -0.1),
        ("decay", 0.0),
        ("final_lr_ratio", 1.5),
        ("gradient_clip", -1.0),
        ("warmup", "soon"),
        ("duration", "3 epochs"),
    ],
)
def test_settings_check_names_the_key_and_the_value(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"model\.optimizer\.{name}") as caught:
        OptimizerSettings(**{name: value}).check()
    assert str(value) in str(caught.value)


def test_settings_check_takes_the_defaults() -> None:
    OptimizerSettings().check()


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (200, 200),
        ("200", 200),
        ("200 steps", 200),
        ("1 step", 1),
        ("2k steps", 2000),
        ("50M tokens", 50_000),
        ("2.5B tokens", 2_500_000),
        ("2.5G tokens", 2_500_000),
        ("2T tokens", 2_000_000_000),
        ("1e6 tokens", 1000),
        ("1_000_000 tokens", 1000),
        (" 1001 Tokens ", 2),
        ("1token", 1),
        (0, 0),
    ],
)
def test_in_steps_reads(duration: Any, steps: int) -> None:
    assert in_steps(duration, 1000, "warmup") == steps


@given(count=st.integers(0, 10**15), tokens_per_step=st.integers(1, 10**8))
def test_in_steps_rounds_tokens_up(count: int, tokens_per_step: int) -> None:
    steps = in_steps(f"{count} tokens", tokens_per_step, "warmup")
    assert (steps - 1) * tokens_per_step < count <= steps * tokens_per_step or count == steps == 0


@given(
    st.one_of(
        st.text(),
        st.text("0123456789._ekmgbt ").map(lambda text: f"{text} tokens"),
        st.floats(),
        st.booleans(),
        st.none(),
        st.lists(st.integers()),
        st.integers(),
    )
)
def test_in_steps_gives_a_count_or_the_one_error(duration: Any) -> None:
    try:
        found: int | str = in_steps(duration, 3, "here")
    except ConfigurationError as error:
        found = str(error)
    assert found.startswith("here: ") if isinstance(found, str) else found >= 0


@pytest.mark.parametrize(
    "duration", [-1, True, None, "", "many", "10 epochs", "1.5.3 tokens", "-5 steps", "inf tokens", "tokens"]
)
def test_in_steps_refuses(duration: Any) -> None:
    with pytest.raises(ConfigurationError, match="here: expected steps or tokens") as caught:
        in_steps(duration, 1000, "here")
    assert repr(duration) in str(caught.value)


def test_in_steps_asks_what_a_bare_factor_counts() -> None:
    with pytest.raises(ConfigurationError, match="here: '10M' of what"):
        in_steps("10M", 1000, "here")
