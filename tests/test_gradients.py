"""The gradient of a step: its norm, clipping, dropping; plain, scaled and spread over ranks."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.distributed.fsdp import fully_shard

from gecko_lab.gradients import clip_gradients, drop_gradients, gradient_scale, whole


def linear() -> nn.Linear:
    torch.manual_seed(0)
    layer = nn.Linear(3, 5)
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    return layer


@given(st.floats(0.0, 10.0), st.integers(-8, 8))
def test_clip_gradients_is_the_published_clipping_whatever_the_scale(limit: float, power: int) -> None:
    expected, layer = linear(), linear()
    norm = torch.nn.utils.clip_grad_norm_(expected.parameters(), limit or math.inf)
    for parameter in layer.parameters():
        assert parameter.grad is not None
        parameter.grad *= 2.0**power
    torch.testing.assert_close(clip_gradients(layer.parameters(), limit, 2.0**power), norm)
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad / 2.0**power, expected.get_parameter(name).grad, msg=name)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_clip_gradients_gives_a_norm_that_is_not_finite_where_a_gradient_or_its_square_is_not(value: float) -> None:
    layer = linear()
    assert layer.bias.grad is not None
    layer.bias.grad[1] = value
    assert not clip_gradients(layer.parameters(), 1.0).isfinite()


def test_clip_gradients_of_nothing_is_nothing() -> None:
    assert clip_gradients(nn.Linear(2, 2).parameters(), 1.0) == 0


def test_clip_gradients_counts_sharded_parameters_whole(tmp_path: Path) -> None:
    expected, layer = linear(), linear()
    norm = clip_gradients(expected.parameters(), 0.5)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        gradients = {name: p.grad for name, p in layer.named_parameters()}
        layer.zero_grad()
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        fully_shard(layer, mesh=mesh)
        loss = sum((p * gradients[name]).sum() for name, p in _unsharded(layer).items())
        loss.backward()
        sharded = clip_gradients(layer.parameters(), 0.5)
        assert type(sharded) is torch.Tensor
        torch.testing.assert_close(sharded, norm)
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(whole(parameter.grad), expected.get_parameter(name).grad, msg=name)  # type: ignore[arg-type]
    finally:
        torch.distributed.destroy_process_group()


def _unsharded(layer: nn.Module) -> dict[str, Any]:
    return {name: p.full_tensor() for name, p in layer.named_parameters()}  # type: ignore[attr-defined]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_drop_gradients_leaves_weights_moments_and_steps(fused: bool, scaled: bool) -> None:
    layer = linear()
    optimizer = torch.optim.AdamW(layer.parameters(), fused=fused)
    optimizer.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    states = [value.clone() for state in optimizer.state.values() for value in state.values()]
    optimizer.zero_grad()
    loss = layer(torch.ones(1, 3)).sum()
    (loss if scaler is None else scaler.scale(loss)).backward()
    if scaler is not None and not fused:
        scaler.unscale_(optimizer)
    assert gradient_scale(trainer, optimizer) == (8.0 if scaled and fused else 1.0)
    drop_gradients(trainer, optimizer)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    assert all(torch.equal(value, weights[name]) for name, value in layer.state_dict().items())
    after = [value for state in optimizer.state.values() for value in state.values()]
    assert len(after) == len(states) == 6
    assert all(torch.equal(a, b) for a, b in zip(after, states, strict=True))
