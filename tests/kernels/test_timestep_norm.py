"""`gecko_lab.kernels.timestep_norm`: against the golden vectors, the float64 reference, and itself in pieces."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gecko_lab.kernels.timestep_norm import TimestepStatistics, timestep_norm
from gecko_lab.kernels.timestep_norm.inputs import TEST_SHAPES, TimestepNormInputs, timestep_norm_inputs
from gecko_lab.kernels.timestep_norm.scan import segmented_scan, segmented_scan_backward
from gecko_lab.kernels.timestep_norm.statistics import statistics_dtype

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCES = {
    torch.float64: (1e-12, 1e-10),
    torch.float32: (1e-5, 1e-4),
    torch.bfloat16: (5e-3, 2e-2),
}
"""RMS of the error over RMS of the reference: forward, gradients."""
BETAS = [pytest.param((0.9, 0.99), id="decay"), pytest.param(None, id="cumulative")]


def relative_error(actual: Tensor, reference: Tensor) -> float:
    """RMS of the error over RMS of the reference."""
    actual, reference = actual.detach().double(), reference.detach().double()
    assert actual.shape == reference.shape
    return float((actual - reference).square().mean().sqrt() / reference.square().mean().sqrt())


def outputs_and_gradients(
    inputs: TimestepNormInputs, num_groups: int, betas: tuple[float, float] | None, backend: str, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Run both passes with `x` in `dtype`; outputs and gradients by name."""
    wide = statistics_dtype(dtype)
    leaves = {"x": inputs.x.to(dtype), "scale": inputs.scale.to(wide), "bias": inputs.bias.to(wide)}
    if inputs.state is not None:
        leaves |= {"state.mean": inputs.state.mean.to(wide), "state.variance": inputs.state.variance.to(wide)}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    state = None
    if inputs.state is not None:
        state = TimestepStatistics(inputs.state.count, leaves["state.mean"], leaves["state.variance"])
    y, after = timestep_norm(
        *(leaves[name] for name in ("x", "scale", "bias")),
        state,
        inputs.document_starts,
        num_groups=num_groups,
        betas=betas,
        backend=backend,
    )
    assert (y.dtype, after.mean.dtype, after.variance.dtype, after.count.dtype) == (dtype, wide, wide, torch.int64)
    gradients = torch.autograd.grad(
        [y, after.mean, after.variance],
        list(leaves.values()),
        [inputs.dy.to(dtype), inputs.dmean.to(wide), inputs.dvariance.to(wide)],
    )
    outputs = {"y": y, "count": after.count, "mean": after.mean, "variance": after.variance}
    return outputs, dict(zip(leaves, gradients, strict=True))


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("name", ["single", "documents"])
def test_golden(name: str, backend: str) -> None:
    with np.load(GOLDEN / f"timestep_decay_norm_{name}.npz") as file:
        golden = {key: torch.from_numpy(file[key]) for key in file.files}
    x, scale, bias = (golden[key].clone().requires_grad_() for key in ("x", "weight", "bias"))
    starts = golden["document_starts"] if name == "documents" else None
    betas = (golden["beta1"].item(), golden["beta2"].item())
    y, state = timestep_norm(
        x, scale, bias, None, starts,
        num_groups=int(golden["num_groups"]), betas=betas, eps=golden["eps"].item(), backend=backend,
    )  # fmt: skip
    dx, dscale, dbias = torch.autograd.grad(y, [x, scale, bias], golden["dy"])
    assert torch.equal(state.count, golden["count"])
    results = {
        "y": y, "mean": state.mean, "var": state.variance, "dx": dx, "dweight": dscale, "dbias": dbias,
    }  # fmt: skip
    errors = {key: relative_error(value, golden[key]) for key, value in results.items()}
    assert max(errors.values()) <= 2e-5, errors


@pytest.mark.parametrize("with_documents", [False, True], ids=["one-document", "documents"])
@pytest.mark.parametrize("with_state", [False, True], ids=["fresh", "state"])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("dtype", list(TOLERANCES), ids=str)
@pytest.mark.parametrize("shape", TEST_SHAPES, ids=str)
def test_torch_backend_against_float64_reference(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    betas: tuple[float, float] | None,
    with_state: bool,
    with_documents: bool,
) -> None:
    inputs = timestep_norm_inputs(*shape, dtype=dtype, with_state=with_state, with_documents=with_documents)
    outputs, gradients = outputs_and_gradients(inputs, shape[3], betas, "torch", dtype)
    expected_outputs, expected_gradients = outputs_and_gradients(inputs, shape[3], betas, "reference", torch.float64)
    assert torch.equal(outputs.pop("count"), expected_outputs.pop("count"))
    forward_tolerance, gradient_tolerance = TOLERANCES[dtype]
    errors = {name: relative_error(outputs[name], expected_outputs[name]) for name in outputs}
    assert max(errors.values()) <= forward_tolerance, errors
    errors = {name: relative_error(gradients[name], expected_gradients[name]) for name in gradients}
    assert max(errors.values()) <= gradient_tolerance, errors


@pytest.mark.parametrize("betas", BETAS)
def test_torch_backend_over_several_pieces(betas: tuple[float, float] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gecko_lab.kernels.timestep_norm.torch.CACHED_ELEMENTS", 100)
    inputs = timestep_norm_inputs(2, 41, 12, 3, with_state=True, with_documents=True)
    outputs, gradients = outputs_and_gradients(inputs, 3, betas, "torch", torch.float32)
    expected_outputs, expected_gradients = outputs_and_gradients(inputs, 3, betas, "reference", torch.float64)
    assert max(relative_error(outputs[name], expected_outputs[name]) for name in outputs) <= 1e-5
    errors = {name: relative_error(gradients[name], expected_gradients[name]) for name in gradients}
    assert max(errors.values()) <= 1e-4, errors


@pytest.mark.parametrize("with_documents", [False, True], ids=["one-document", "documents"])
@pytest.mark.parametrize("betas", BETAS)
def test_gradcheck(betas: tuple[float, float] | None, with_documents: bool) -> None:
    inputs = timestep_norm_inputs(2, 7, 6, 2, dtype=torch.float64, with_state=True, with_documents=with_documents)
    assert inputs.state is not None
    count = inputs.state.count

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state = TimestepStatistics(count, mean, variance)
        y, after = timestep_norm(x, scale, bias, state, inputs.document_starts, num_groups=2, betas=betas)
        return y, after.mean, after.variance

    tensors = (inputs.x, inputs.scale, inputs.bias, inputs.state.mean, inputs.state.variance)
    assert torch.autograd.gradcheck(run, [tensor.clone().requires_grad_() for tensor in tensors])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    pieces=st.lists(st.sampled_from([1, 1, 2, 3, 7, 16, 33]), min_size=1, max_size=6),
    betas=st.sampled_from([(0.9, 0.99), (0.999, 0.9999), None]),
    with_state=st.booleans(),
    with_documents=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_split_equals_the_whole(
    pieces: list[int], betas: tuple[float, float] | None, with_state: bool, with_documents: bool, seed: int
) -> None:
    length = sum(pieces)
    inputs = timestep_norm_inputs(
        2, length, 8, 2, with_state=with_state, with_documents=with_documents, seed=seed, dtype=torch.float64
    )
    whole_outputs, whole_gradients = outputs_and_gradients(inputs, 2, betas, "torch", torch.float64)
    x = inputs.x.clone().requires_grad_()
    state, outputs, position = inputs.state, [], 0
    for size in pieces:
        piece = slice(position, position + size)
        starts = None if inputs.document_starts is None else inputs.document_starts[:, piece]
        y, state = timestep_norm(x[:, piece], inputs.scale, inputs.bias, state, starts, num_groups=2, betas=betas)
        outputs.append(y)
        position += size
    assert state is not None
    y = torch.cat(outputs, dim=1)
    (dx,) = torch.autograd.grad([y, state.mean, state.variance], x, [inputs.dy, inputs.dmean, inputs.dvariance])
    assert torch.equal(state.count, whole_outputs["count"])
    torch.testing.assert_close(y, whole_outputs["y"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.mean, whole_outputs["mean"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.variance, whole_outputs["variance"], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dx, whole_gradients["x"], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("intruder", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("betas", BETAS)
def test_nothing_leaks_between_documents(betas: tuple[float, float] | None, intruder: float) -> None:
    """Bit for bit, forward and backward, when one document's contents or the incoming state change."""
    inputs = timestep_norm_inputs(2, 100, 12, 3, with_state=True)
    assert inputs.state is not None
    starts = torch.zeros(2, 100, dtype=torch.bool)
    starts[:, [37, 38, 71]] = True
    documents = starts.cumsum(1)
    clean = inputs._replace(document_starts=starts)
    outputs, gradients = outputs_and_gradients(clean, 3, betas, "torch", torch.float32)
    for document in range(4):
        inside = documents == document
        x = torch.where(inside[:, :, None] & (torch.arange(12) < 5), intruder, inputs.x)
        changed_outputs, changed_gradients = outputs_and_gradients(
            clean._replace(x=x), 3, betas, "torch", torch.float32
        )
        assert torch.equal(changed_outputs["y"][~inside], outputs["y"][~inside])
        assert torch.equal(changed_gradients["x"][~inside], gradients["x"][~inside])
        if document != 3:
            assert torch.equal(changed_outputs["mean"], outputs["mean"])
            assert torch.equal(changed_outputs["variance"], outputs["variance"])
        if document != 0:
            assert torch.equal(changed_gradients["state.mean"], gradients["state.mean"])
            assert torch.equal(changed_gradients["state.variance"], gradients["state.variance"])
        if intruder != intruder:
            assert changed_outputs["y"][inside].isnan().any()
    poisoned = inputs.state._replace(mean=torch.full((2, 3), intruder), variance=torch.full((2, 3), intruder))
    changed_outputs, changed_gradients = outputs_and_gradients(
        clean._replace(state=poisoned), 3, betas, "torch", torch.float32
    )
    assert torch.equal(changed_outputs["y"][documents > 0], outputs["y"][documents > 0])
    assert torch.equal(changed_gradients["x"][documents > 0], gradients["x"][documents > 0])


@pytest.mark.parametrize("betas", BETAS)
def test_nothing_leaks_from_the_future(betas: tuple[float, float] | None) -> None:
    inputs = timestep_norm_inputs(1, 90, 6, 2, with_state=True)
    y, _ = timestep_norm(inputs.x, inputs.scale, inputs.bias, inputs.state, num_groups=2, betas=betas)
    x = inputs.x.clone()
    x[:, 55:] = float("nan")
    changed, _ = timestep_norm(x, inputs.scale, inputs.bias, inputs.state, num_groups=2, betas=betas)
    assert torch.equal(changed[:, :55], y[:, :55])


def test_no_start_gives_the_bits_of_no_documents() -> None:
    inputs = timestep_norm_inputs(2, 50, 6, 2, with_state=True)
    starts = torch.zeros(2, 50, dtype=torch.bool)
    plain = timestep_norm(inputs.x, inputs.scale, inputs.bias, inputs.state, num_groups=2)
    marked = timestep_norm(inputs.x, inputs.scale, inputs.bias, inputs.state, starts, num_groups=2)
    assert torch.equal(plain[0], marked[0])
    assert all(torch.equal(one, other) for one, other in zip(plain[1], marked[1], strict=True))


def test_cumulative_statistics_are_those_of_all_elements_seen() -> None:
    inputs = timestep_norm_inputs(1, 60, 12, 3, dtype=torch.float64)
    starts = torch.zeros(1, 60, dtype=torch.bool)
    starts[0, 23] = True
    ones, zeros = torch.ones(12, dtype=torch.float64), torch.zeros(12, dtype=torch.float64)
    x = inputs.x.numpy()[0].reshape(60, 3, 4)
    for length in (1, 2, 23, 24, 25, 60):
        y, state = timestep_norm(
            inputs.x[:, :length], ones, zeros, None, starts[:, :length], num_groups=3, betas=None, eps=1e-5
        )
        seen = x[23 if length > 23 else 0 : length]
        mean, variance = seen.mean(axis=(0, 2)), seen.var(axis=(0, 2))
        assert state.count.item() == len(seen)
        np.testing.assert_allclose(state.mean[0].numpy(), mean, rtol=1e-12)
        np.testing.assert_allclose(state.variance[0].numpy(), variance, rtol=1e-12)
        expected = (seen[-1] - mean[:, None]) / np.sqrt(variance[:, None] + 1e-5)
        np.testing.assert_allclose(y[0, -1].view(3, 4).numpy(), expected, rtol=1e-11)


@pytest.mark.parametrize("betas", [(0.999, 0.9999), None], ids=["decay", "cumulative"])
def test_four_million_timesteps_in_pieces(betas: tuple[float, float] | None) -> None:
    """float32 states carried over 64 pieces; a level of 3 that drifts, so that lost updates would show."""
    length, piece = 4_194_304, 65_536
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, length, 2, generator=generator) + torch.linspace(3, 5, length)[None, :, None]
    state = None
    for part in x.split(piece, dim=1):
        y, state = timestep_norm(part, torch.ones(2), torch.zeros(2), state, num_groups=1, betas=betas)
    assert state is not None
    assert state.count.item() == length
    elements = x[0].double().numpy()
    if betas is None:
        mean, variance = elements.mean(), elements.var()
    else:
        ages = np.arange(length, dtype=np.float64)[::-1]
        mean = (elements.mean(axis=1) * (1 - betas[0]) * betas[0] ** ages).sum()
        variance = (elements.var(axis=1) * (1 - betas[1]) * betas[1] ** ages).sum()
    assert abs(state.mean.item() / mean - 1) <= 1e-6
    assert abs(state.variance.item() / variance - 1) <= 1e-6
    expected = (elements[-1] - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(y[0, -1].numpy(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("count", [0, 1, 3_999_999, 2**40])
def test_correction_is_exact_at_any_count(count: int, backend: str) -> None:
    """A constant group mean, and the state that it leaves, correct to that mean at the first and the last timestep."""
    x = torch.tensor([[[2.0, 4.0]]])
    past = -np.expm1(count * np.log([0.999, 0.9999]))
    state = TimestepStatistics(
        torch.tensor([count]), torch.tensor([[3.0 * past[0]]]).float(), torch.tensor([[1.0 * past[1]]]).float()
    )
    y, after = timestep_norm(x, torch.ones(2), torch.zeros(2), state, num_groups=1, backend=backend)
    assert after.count.item() == count + 1
    np.testing.assert_allclose(y[0, 0].numpy(), np.array([-1, 1]) / np.sqrt(1 + 1e-5), rtol=1e-5)


@pytest.mark.parametrize("length", [1, 2, 5, 16, 17, 50])
@pytest.mark.parametrize("with_restarts", [False, True])
def test_segmented_scan_against_a_loop(length: int, with_restarts: bool) -> None:
    generator = torch.Generator().manual_seed(length)
    increments = torch.randn(2, length, 3, generator=generator, dtype=torch.float64).requires_grad_()
    decay = torch.rand(2, length, generator=generator, dtype=torch.float64)
    initial = torch.randn(2, 3, generator=generator, dtype=torch.float64).requires_grad_()
    restarts = torch.rand(2, length, generator=generator) < 0.2 if with_restarts else None
    states, state = [], initial
    for t in range(length):
        carried = decay[:, t, None] * state
        state = increments[:, t] + (carried if restarts is None else carried.masked_fill(restarts[:, t, None], 0))
        states.append(state)
    expected = torch.stack(states, dim=1)
    torch.testing.assert_close(segmented_scan(increments.detach(), decay, restarts, initial.detach()), expected)
    gradients, final = torch.randn(2, length, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    direct = gradients.clone()
    direct[:, -1] += final
    for actual, wanted in zip(
        segmented_scan_backward(gradients, decay, restarts, final),
        torch.autograd.grad(expected, [increments, initial], direct),
        strict=True,
    ):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("with_documents", [False, True])
def test_opcheck(betas: tuple[float, float] | None, with_documents: bool) -> None:
    dtype = torch.float64 if with_documents else torch.float32
    inputs = timestep_norm_inputs(2, 5, 6, 2, dtype=dtype, with_state=True, with_documents=with_documents)
    assert inputs.state is not None
    tensors = (inputs.x, inputs.scale, inputs.bias, inputs.state.count, inputs.state.mean, inputs.state.variance)
    arguments = tuple(t.clone().requires_grad_() if t.is_floating_point() else t for t in tensors)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torch")
        torch.library.opcheck(
            torch.ops.gecko_lab.timestep_norm.default, (*arguments, inputs.document_starts, 2, betas, 1e-5, "torch")
        )


def test_gradients_of_strided_inputs() -> None:
    inputs = timestep_norm_inputs(2, 9, 6, 2)
    strided = inputs.x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    plain = inputs.x.clone().requires_grad_()
    gradients = []
    for x in (strided, plain):
        y, _ = timestep_norm(x, inputs.scale, inputs.bias, num_groups=2)
        gradients.append(torch.autograd.grad(y.square().sum() + y.sum(), x)[0])
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "cuda"}, "no backend 'cuda'"),
        ({"num_groups": 4}, "6 features, num_groups=4"),
        ({"betas": (0.9, 1.0)}, "between 0 and 1"),
        ({"scale": torch.ones(5)}, r"scale must have shape \[6\]"),
        ({"document_starts": torch.zeros(2, 3)}, "must be bool"),
        ({"document_starts": torch.zeros(2, 4, dtype=torch.bool)}, r"document_starts must have shape \[2, 3\]"),
        ({"x": torch.ones(2, 6)}, "L >= 1"),
        ({"x": torch.ones(2, 3, 6, dtype=torch.int64)}, "int64"),
        ({"state": TimestepStatistics(torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 2))}, r"state.mean .*\[2, 2\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_errors_name_the_values(changes: dict, message: str) -> None:
    arguments = {"x": torch.ones(2, 3, 6), "scale": torch.ones(6), "bias": torch.ones(6), "num_groups": 2} | changes
    with pytest.raises(ValueError, match=message):
        timestep_norm(**arguments)
