"""Gates of planted openness, and attention against memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from gecko_lab.microscope.gates import look_at_gate
from gecko_lab.microscope.seen import MAX_ROWS, MAX_TIMESTEPS, sample
from gecko_lab.microscope.share import look_at_share


def test_look_at_gate_counts_what_is_shut_and_what_is_wide_open() -> None:
    sigmoid = torch.tensor([[[0.005, 0.5], [0.009, 0.995], [0.02, 0.5], [0.001, 0.999]]], dtype=torch.float64)
    metrics = look_at_gate(torch.logit(sigmoid)).metrics()
    assert metrics == pytest.approx({"closed": 3 / 8, "open": 2 / 8, "never_open": 0.0})
    sigmoid[0, 2, 0] = 0.0099
    assert look_at_gate(torch.logit(sigmoid)).metrics()["never_open"] == 0.5


def test_findings_of_a_gate_that_never_opens() -> None:
    z = torch.full((1, 2000, 3), -10.0)
    z[0, 777, 1] = -4.0  # one timestep of one feature, that a sample may miss
    seen = look_at_gate(z)
    assert seen.findings() == []
    assert seen.never_open == pytest.approx(2 / 3)
    z[0, 777, 1] = -5.0
    (finding,) = look_at_gate(z).findings()
    assert finding.kind == "never opens"
    assert "at most 6.7e-03" in finding.reason


@given(st.integers(1, 3 * MAX_TIMESTEPS), st.integers(1, 7))
def test_sample_is_a_copy_of_timesteps_from_the_first_to_the_last(length: int, batch: int) -> None:
    x = torch.arange(length).repeat(batch, 1)
    sampled = sample(x)
    assert sampled.shape == (min(batch, MAX_ROWS), min(length, MAX_TIMESTEPS))
    assert (sampled[0, 0], sampled[0, -1]) == (0, length - 1)
    assert (sampled.diff(dim=1) > 0).all()
    sampled += 1
    assert torch.equal(x[0], torch.arange(length))


@pytest.mark.parametrize("kind", ["silu", "sigmoid", None])
def test_look_at_share_compares_where_the_memory_is_read(kind: str | None) -> None:
    attended, remembered, z = torch.randn(2, 6, 2, 3), torch.randn(2, 6, 2, 3), torch.randn(2, 6, 6)
    remembered[:, :2] = 0.0
    gate = torch.ones_like(z) if kind is None else F.silu(z) if kind == "silu" else z.sigmoid()
    a, w = ((attended.flatten(2) * gate)[:, 2:]).norm(), remembered[:, 2:].norm()
    seen = look_at_share(attended, None if kind is None else (z, kind), remembered)
    assert seen.metrics()["share"] == pytest.approx((a / (a + w)).item(), rel=1e-5)


def test_share_of_a_memory_that_is_not_read_is_none() -> None:
    seen = look_at_share(torch.ones(1, 2, 1, 1), None, torch.zeros(1, 2, 1, 1))
    assert seen.metrics() == {}
    assert seen.findings() == []


@pytest.mark.parametrize(("attention", "memory", "dead"), [(1e-4, 1.0, "attention"), (1.0, 1e-4, "memory")])
def test_findings_of_a_summand_that_adds_nothing(attention: float, memory: float, dead: str) -> None:
    def ones(size: float) -> Tensor:
        return torch.full((1, 2, 1, 1), size)

    (finding,) = look_at_share(ones(attention), None, ones(memory)).findings()
    assert finding.kind == f"{dead} adds nothing"
    assert finding.patience == 3
    assert look_at_share(ones(attention + 0.1), None, ones(memory + 0.1)).findings() == []
