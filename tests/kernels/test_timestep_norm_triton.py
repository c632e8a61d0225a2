"""The backend triton of `timestep_norm` against the float64 reference: interpreted, or compiled where there is a GPU.

Tiles are made small where the interpreter would take long otherwise: then chunks and tiles end within few timesteps.
"""

import warnings

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton
import triton.language as tl

from gecko_lab.kernels.timestep_norm import TimestepStatistics, timestep_norm
from gecko_lab.kernels.timestep_norm import triton as backend
from gecko_lab.kernels.timestep_norm.inputs import TimestepNormInputs, timestep_norm_inputs
from gecko_lab.kernels.timestep_norm.statistics import statistics_dtype
from gecko_lab.kernels.timestep_norm.triton_recurrences import affine, later_count, one_minus_exp, pooled

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BETAS = [pytest.param((0.9, 0.99), id="decay"), pytest.param(None, id="cumulative")]
TOLERANCES = (1e-5, 1e-4)
"""In float32, RMS of the error over RMS of the reference: forward, gradients."""
Betas = tuple[float, float] | None


def relative_error(actual: Tensor, reference: Tensor) -> float:
    """RMS of the error over RMS of the reference."""
    actual, reference = actual.detach().double().cpu(), reference.detach().double().cpu()
    assert actual.shape == reference.shape
    return float((actual - reference).square().mean().sqrt() / reference.square().mean().sqrt().clamp_min(1e-30))


def run(
    inputs: TimestepNormInputs, num_groups: int, betas: Betas, name: str, dtype: torch.dtype
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both passes of a backend with `x` in `dtype`: outputs and gradients by name."""
    wide = statistics_dtype(dtype)
    leaves = {"x": inputs.x.to(dtype), "scale": inputs.scale.to(wide), "bias": inputs.bias.to(wide)}
    if inputs.state is not None:
        leaves |= {"state.mean": inputs.state.mean.to(wide), "state.variance": inputs.state.variance.to(wide)}
    leaves = {key: leaf.to(DEVICE, copy=True).requires_grad_() for key, leaf in leaves.items()}
    state = None
    if inputs.state is not None:
        count = inputs.state.count.to(DEVICE)
        state = TimestepStatistics(count, leaves["state.mean"], leaves["state.variance"])
    starts = None if inputs.document_starts is None else inputs.document_starts.to(DEVICE)
    y, after = timestep_norm(
        leaves["x"], leaves["scale"], leaves["bias"], state, starts, num_groups=num_groups, betas=betas, backend=name
    )
    assert (y.dtype, after.mean.dtype, after.variance.dtype, after.count.dtype) == (dtype, wide, wide, torch.int64)
    given = [inputs.dy.to(dtype), inputs.dmean.to(wide), inputs.dvariance.to(wide)]
    gradients = torch.autograd.grad(
        [y, after.mean, after.variance], list(leaves.values()), [gradient.to(DEVICE) for gradient in given]
    )
    outputs = {"y": y, "count": after.count, "mean": after.mean, "variance": after.variance}
    return outputs, dict(zip(leaves, gradients, strict=True))


def errors(
    inputs: TimestepNormInputs, num_groups: int, betas: Betas, name: str, dtype: torch.dtype
) -> tuple[dict[str, float], dict[str, float]]:
    """Errors of a backend against the float64 reference: of outputs and of gradients, by name."""
    outputs, gradients = run(inputs, num_groups, betas, name, dtype)
    expected_outputs, expected_gradients = run(inputs, num_groups, betas, "reference", torch.float64)
    assert torch.equal(outputs.pop("count"), expected_outputs.pop("count"))
    return (
        {key: relative_error(value, expected_outputs[key]) for key, value in outputs.items()},
        {key: relative_error(value, expected_gradients[key]) for key, value in gradients.items()},
    )


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 timesteps in tiles of 4 or 2, of two groups at most; two chunks to a step of the scan over chunks."""
    monkeypatch.setattr(backend, "chunk_length", lambda shape: 8)
    originals = {name: getattr(backend, name) for name in ("forward_constants", "backward_constants")}

    def shrink(name: str, shape: object, betas: Betas) -> dict[str, backend.Constants]:
        limits = {"ROWS": 4 if name == "forward_constants" else 2, "SPAN": 8, "GROUPS": 2, "CHUNKS": 2}
        return {
            part: {key: min(value, limits.get(key, value)) for key, value in constants.items()}
            for part, constants in originals[name](shape, betas).items()
        }

    for name in originals:
        monkeypatch.setattr(backend, name, lambda shape, betas, name=name: shrink(name, shape, betas))


@pytest.mark.parametrize("with_documents", [False, True], ids=["one-document", "documents"])
@pytest.mark.parametrize("with_state", [False, True], ids=["fresh", "state"])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("shape", [(3, 1, 4, 1), (2, 8, 6, 2), (1, 21, 3, 1)], ids=str)
@pytest.mark.usefixtures("small_tiles")
def test_against_float64_reference(
    shape: tuple[int, int, int, int], betas: Betas, with_state: bool, with_documents: bool
) -> None:
    inputs = timestep_norm_inputs(*shape, with_state=with_state, with_documents=with_documents)
    forward, gradients = errors(inputs, shape[3], betas, "triton", torch.float32)
    assert max(forward.values()) <= TOLERANCES[0], forward
    assert max(gradients.values()) <= TOLERANCES[1], gradients


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.parametrize("shape", [(1, 33, 600, 1), (1, 3, 384, 6)], ids=str)
def test_with_the_tiles_of_a_launch(shape: tuple[int, int, int, int], betas: Betas) -> None:
    inputs = timestep_norm_inputs(*shape, with_state=True, with_documents=True)
    forward, gradients = errors(inputs, shape[3], betas, "triton", torch.float32)
    assert max(forward.values()) <= TOLERANCES[0], forward
    assert max(gradients.values()) <= TOLERANCES[1], gradients


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.usefixtures("small_tiles")
def test_half_precision_errs_at_most_twice_as_much_as_torch(betas: Betas, dtype: torch.dtype) -> None:
    inputs = timestep_norm_inputs(1, 13, 40, 2, dtype=dtype, with_state=True, with_documents=True)
    # The interpreter cuts bfloat16 off where a GPU rounds, which alone doubles the error.
    factor = 2.2 if dtype == torch.bfloat16 and DEVICE == "cpu" else 2
    for ours, theirs in zip(
        errors(inputs, 2, betas, "triton", dtype), errors(inputs, 2, betas, "torch", dtype), strict=True
    ):
        # What neither rounds to half precision is compared with float32's own rounding instead.
        assert all(ours[key] <= max(factor * theirs[key], 1e-6) for key in ours), (ours, theirs)


@pytest.mark.parametrize("betas", [(0.999, 0.9999), None], ids=["decay", "cumulative"])
@pytest.mark.usefixtures("small_tiles")
def test_counts_beyond_float32(betas: Betas) -> None:
    """A document of a trillion timesteps behind the piece: counts stay exact, statistics keep their place."""
    inputs = timestep_norm_inputs(1, 9, 3, 1, with_state=True)
    assert inputs.state is not None
    inputs = inputs._replace(state=inputs.state._replace(count=torch.tensor([2**40 + 1])))
    forward, gradients = errors(inputs, 1, betas, "triton", torch.float32)
    assert max(forward.values()) <= TOLERANCES[0], forward
    assert max(gradients.values()) <= TOLERANCES[1], gradients


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.usefixtures("small_tiles")
def test_any_split_equals_the_whole(betas: Betas) -> None:
    pieces = (1, 9, 7)
    inputs = timestep_norm_inputs(1, sum(pieces), 3, 1, with_state=True, with_documents=True)
    assert inputs.document_starts is not None
    whole_outputs, whole_gradients = run(inputs, 1, betas, "triton", torch.float32)
    x = inputs.x.to(DEVICE, copy=True).requires_grad_()
    assert inputs.state is not None
    state = TimestepStatistics(*(tensor.to(DEVICE) for tensor in inputs.state))
    outputs, position = [], 0
    for size in pieces:
        piece = slice(position, position + size)
        starts = inputs.document_starts[:, piece].to(DEVICE)
        y, state = timestep_norm(
            x[:, piece], inputs.scale.to(DEVICE), inputs.bias.to(DEVICE), state, starts,
            num_groups=1, betas=betas, backend="triton",
        )  # fmt: skip
        outputs.append(y)
        position += size
    y = torch.cat(outputs, dim=1)
    given = [gradient.to(DEVICE) for gradient in (inputs.dy, inputs.dmean, inputs.dvariance)]
    (dx,) = torch.autograd.grad([y, state.mean, state.variance], x, given)
    assert torch.equal(state.count, whole_outputs["count"])
    for actual, whole in (
        (y, whole_outputs["y"]),
        (state.mean, whole_outputs["mean"]),
        (state.variance, whole_outputs["variance"]),
    ):
        torch.testing.assert_close(actual, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dx, whole_gradients["x"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("intruder", [1e30, float("nan")])
@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")  # numpy's, in the interpreter
@pytest.mark.usefixtures("small_tiles")
def test_nothing_leaks_between_documents(betas: Betas, intruder: float) -> None:
    """Bit for bit, forward and backward, when one document's contents or the incoming state change.

    Documents begin within chunks and tiles, at their first and at their last timestep, and lie chunks apart.
    """
    inputs = timestep_norm_inputs(1, 20, 3, 1, with_state=True)
    starts = torch.zeros(1, 20, dtype=torch.bool)
    starts[:, [2, 3, 8, 17]] = True
    documents = starts.cumsum(1)
    inputs = inputs._replace(document_starts=starts)
    assert inputs.state is not None
    outputs, gradients = run(inputs, 1, betas, "triton", torch.float32)
    poisoned = inputs.state._replace(mean=torch.full((1, 1), intruder), variance=torch.full((1, 1), intruder))
    changes = []
    for document in (0, 3, 4):
        inside = documents == document
        x = torch.where(inside[:, :, None] & (torch.arange(3) < 2), intruder, inputs.x)
        changes.append((inputs._replace(x=x, state=inputs.state if document else poisoned), inside, document))
    for changed, inside, document in changes:
        changed_outputs, changed_gradients = run(changed, 1, betas, "triton", torch.float32)
        outside = ~inside.to(DEVICE)
        assert torch.equal(changed_outputs["y"][outside], outputs["y"][outside])
        assert torch.equal(changed_gradients["x"][outside], gradients["x"][outside])
        names = () if document == 4 else ("mean", "variance")
        assert all(torch.equal(changed_outputs[name], outputs[name]) for name in names)
        names = () if document == 0 else ("state.mean", "state.variance")
        assert all(torch.equal(changed_gradients[name], gradients[name]) for name in names)
        if intruder != intruder:
            assert changed_outputs["y"][~outside].isnan().any()


@pytest.mark.parametrize("betas", BETAS)
@pytest.mark.usefixtures("small_tiles")
def test_repeated_calls_give_the_same_bits(betas: Betas) -> None:
    inputs = timestep_norm_inputs(1, 9, 6, 2, with_state=True, with_documents=True)
    (outputs, gradients), again = (run(inputs, 2, betas, "triton", torch.float32) for _ in range(2))
    assert all(torch.equal(value, again[0][name]) for name, value in outputs.items())
    assert all(torch.equal(value, again[1][name]) for name, value in gradients.items())


@pytest.mark.usefixtures("small_tiles")
def test_opcheck() -> None:
    inputs = timestep_norm_inputs(1, 3, 3, 1, with_state=True, with_documents=True)
    assert inputs.state is not None
    tensors = (inputs.x, inputs.scale, inputs.bias, inputs.state.count, inputs.state.mean, inputs.state.variance)
    moved = (tensor.to(DEVICE, copy=True) for tensor in tensors)
    arguments = tuple(t.requires_grad_() if t.is_floating_point() else t for t in moved)
    assert inputs.document_starts is not None
    starts = inputs.document_starts.to(DEVICE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="torch")
        torch.library.opcheck(
            torch.ops.gecko_lab.timestep_norm.default, (*arguments, starts, 1, (0.9, 0.99), 1e-5, "triton")
        )


@pytest.mark.usefixtures("small_tiles")
def test_strided_inputs() -> None:
    inputs = timestep_norm_inputs(2, 5, 4, 2, with_state=True, with_documents=True)
    assert inputs.document_starts is not None
    strided = inputs._replace(
        x=inputs.x.transpose(0, 2).contiguous().transpose(0, 2),
        dy=inputs.dy.transpose(0, 2).contiguous().transpose(0, 2),
        document_starts=inputs.document_starts.t().contiguous().t(),
    )
    (outputs, gradients), again = (run(one, 2, (0.9, 0.99), "triton", torch.float32) for one in (inputs, strided))
    assert all(torch.equal(value, again[0][name]) for name, value in outputs.items())
    assert all(torch.equal(value, again[1][name]) for name, value in gradients.items())


def test_float64_is_refused() -> None:
    x = torch.ones(1, 2, 4, dtype=torch.float64, device=DEVICE)
    with pytest.raises(ValueError, match=r"timestep_norm: the backend triton cannot run: .*float64"):
        timestep_norm(x, x[0, 0], x[0, 0], num_groups=1, backend="triton")


@triton.jit
def load_stretch(stretches, index, SIZE: tl.constexpr):
    o_s = index * 3 * SIZE + tl.arange(0, SIZE)
    return tl.load(stretches + o_s), tl.load(stretches + o_s + SIZE), tl.load(stretches + o_s + 2 * SIZE)


@triton.jit
def join_kernel(stretches, joined, SIZE: tl.constexpr, POOLED: tl.constexpr):
    """Three stretches `[3, 3, SIZE]` joined from the left and from the right, `[2, 3, SIZE]`."""
    n1, m1, v1 = load_stretch(stretches, 0, SIZE)
    n2, m2, v2 = load_stretch(stretches, 1, SIZE)
    n3, m3, v3 = load_stretch(stretches, 2, SIZE)
    if POOLED:
        n_left, m_left, v_left = pooled(n1, m1, v1, n2, m2, v2)
        n_left, m_left, v_left = pooled(n_left, m_left, v_left, n3, m3, v3)
        n_right, m_right, v_right = pooled(n2, m2, v2, n3, m3, v3)
        n_right, m_right, v_right = pooled(n1, m1, v1, n_right, m_right, v_right)
    else:
        n_left, m_left = affine(n1, m1, n2, m2)
        n_left, m_left = affine(n_left, m_left, n3, m3)
        n_right, m_right = affine(n2, m2, n3, m3)
        n_right, m_right = affine(n1, m1, n_right, m_right)
        v_left = later_count(later_count(v1, v2), v3)
        v_right = later_count(v1, later_count(v2, v3))
    o_s = tl.arange(0, SIZE)
    tl.store(joined + o_s, n_left)
    tl.store(joined + SIZE + o_s, m_left)
    tl.store(joined + 2 * SIZE + o_s, v_left)
    tl.store(joined + 3 * SIZE + o_s, n_right)
    tl.store(joined + 4 * SIZE + o_s, m_right)
    tl.store(joined + 5 * SIZE + o_s, v_right)


@pytest.mark.parametrize("name", ["affine", "pooled"])
def test_stretches_of_time_are_joined_associatively(name: str) -> None:
    """Which the interpreter's scans do not need, as they go from one timestep to the next, and a GPU's do."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(-4, 5, (2, 3, 4096), generator=generator).float()
    values = torch.randn(2, 3, 4096, generator=generator)
    forgets = torch.rand(3, 4096, generator=generator).round(decimals=1)  # one among eleven forgets nothing, or all
    rows = (counts[0], values[0], values[1].abs()) if name == "pooled" else (forgets, values[0], counts[0])
    stretches = torch.stack(rows, dim=1).to(DEVICE)
    joined = torch.empty(2, 3, 4096, device=DEVICE)
    join_kernel[(1,)](stretches, joined, SIZE=4096, POOLED=name == "pooled")
    torch.testing.assert_close(joined[0], joined[1], rtol=1e-5, atol=1e-5)
    exact = 0 if name == "pooled" else 2
    assert torch.equal(joined[0, exact], joined[1, exact])
    if name == "affine":
        assert torch.equal(joined[0, 0] == 1, joined[1, 0] == 1)


@triton.jit
def one_minus_exp_kernel(z, y, SIZE: tl.constexpr):
    o_s = tl.arange(0, SIZE)
    tl.store(y + o_s, one_minus_exp(tl.load(z + o_s)))


def test_one_minus_exp_against_float64() -> None:
    z = torch.cat([-torch.logspace(-9, 3, 4095), torch.zeros(1)]).to(DEVICE)
    y = torch.empty_like(z)
    one_minus_exp_kernel[(1,)](z, y, SIZE=4096)
    torch.testing.assert_close(y.double(), -torch.expm1(z.double()), rtol=3e-7, atol=0.0)
