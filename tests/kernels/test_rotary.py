"""Rotary positions: which pairs turn, by how much, and exactness at position 4,000,000."""

import gc
import weakref

import mpmath
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from gecko_lab.kernels.rotary import rotary, rotary_angles
from gecko_lab.kernels.rotary.op import Backend
from tests.tolerances import TOLERANCE, compare, rms_error

FAR = 4_000_000
CPU = torch.device("cpu")
UNIT_ROUNDOFF = 2.0**-24  # of float32
LIMIT = {dtype: limits.forward for dtype, limits in TOLERANCE.items()} | {torch.float16: 1e-3}


def rotate(x: Tensor, position: int, base: float = 500_000.0, backend: Backend = "auto") -> Tensor:
    return rotary(x, *rotary_angles(position, x.shape[1], x.shape[3], base, x.device), backend=backend)


@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
@pytest.mark.parametrize("position", [0, 1, FAR])
def test_angles_are_exact(position: int, base: float) -> None:
    """Against 50 decimal digits: nearer than float32 can tell."""
    cos, sin = rotary_angles(position, 3, 8, base, CPU)
    assert (cos.dtype, cos.shape, sin.shape) == (torch.float64, (3, 4), (3, 4))
    with mpmath.workdps(50):
        for t in range(3):
            for i in range(4):
                angle = (position + t) * mpmath.power(base, mpmath.mpf(-2 * i) / 8)
                assert abs(cos[t, i].item() - mpmath.cos(angle)) < UNIT_ROUNDOFF / 10
                assert abs(sin[t, i].item() - mpmath.sin(angle)) < UNIT_ROUNDOFF / 10


def test_angles_are_shared_while_they_are_held() -> None:
    """Layers of one forward pass keep one pair of tensors for the backward pass, and nothing stays after it."""
    cos, sin = rotary_angles(3, 5, 8, 10_000.0, CPU)
    again = rotary_angles(3, 5, 8, 10_000.0, CPU)
    assert cos is again[0]
    assert sin is again[1]
    assert rotary_angles(4, 5, 8, 10_000.0, CPU)[0] is not cos
    with torch.inference_mode():
        assert rotary_angles(3, 5, 8, 10_000.0, CPU)[0] is not cos  # which a backward pass may not keep
    with FakeTensorMode():
        assert isinstance(rotary_angles(3, 5, 8, 10_000.0, CPU)[0], FakeTensor)
    held = weakref.ref(cos)
    del cos, sin, again
    gc.collect()
    assert held() is None


def test_pairs_are_neighbours() -> None:
    """Feature 2i turns into 2i + 1, by the angle t · base^(-2i/S)."""
    x = torch.zeros(1, 2, 1, 6, dtype=torch.float64)
    x[..., 2] = 1.0  # i = 1
    y = rotate(x, position=7, base=100.0)
    angles = torch.tensor([7.0, 8.0], dtype=torch.float64) * 100.0 ** (-2 / 6)
    expected = torch.zeros(2, 6, dtype=torch.float64)
    expected[:, 2], expected[:, 3] = angles.cos(), angles.sin()
    torch.testing.assert_close(y[0, :, 0], expected, rtol=0, atol=1e-15)


def test_rotation_as_a_complex_product() -> None:
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    cos, sin = rotary_angles(11, 5, 8, 10_000.0, CPU)
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)))
    expected = torch.view_as_real(pairs * torch.complex(cos, sin)[:, None]).flatten(-2)
    torch.testing.assert_close(rotate(x, 11, 10_000.0), expected, rtol=0, atol=1e-14)


def test_position_zero_changes_nothing() -> None:
    x = torch.randn(1, 1, 2, 4)
    assert torch.equal(rotate(x, 0), x)


@pytest.mark.parametrize("position", [0, 12_345, FAR])
def test_products_depend_on_the_distance_alone(position: int) -> None:
    q, k = torch.randn(1, 20, 2, 16), torch.randn(1, 20, 2, 16)
    expected = torch.einsum("blhs,bmhs->bhlm", rotate(q.double(), 0), rotate(k.double(), 0))
    actual = torch.einsum("blhs,bmhs->bhlm", rotate(q, position), rotate(k, position))
    assert rms_error(actual, expected) < TOLERANCE[torch.float32].forward / 10


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_pieces_continue_the_whole(backend: Backend) -> None:
    x = torch.randn(1, 9, 2, 4)
    pieces = [x[:, :2], x[:, 2:3], x[:, 3:]]
    turned = [rotate(piece, FAR + at, backend=backend) for piece, at in zip(pieces, (0, 2, 3), strict=True)]
    assert torch.equal(torch.cat(turned, dim=1), rotate(x, FAR, backend=backend))


@pytest.mark.parametrize("num_rope_heads", [None, 2, 0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_torch_backend_against_the_reference(dtype: torch.dtype, num_rope_heads: int | None) -> None:
    x, dy = torch.randn(2, 7, 3, 6).to(dtype), torch.randn(2, 7, 3, 6).to(dtype)
    angles = rotary_angles(FAR, 7, 6, 500_000.0, CPU)
    outputs = {}
    for backend, wide in (("torch", dtype), ("reference", torch.float64)):
        leaf = x.to(wide).requires_grad_()
        y = rotary(leaf, *angles, num_rope_heads=num_rope_heads, backend=backend)
        (dx,) = torch.autograd.grad(y, leaf, dy.to(wide))
        outputs[backend] = {"y": y, "dx": dx}
    assert outputs["torch"]["y"].dtype == outputs["torch"]["dx"].dtype == dtype
    compare(outputs["torch"], outputs["reference"], LIMIT[dtype])


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_only_the_first_heads_turn(backend: Backend) -> None:
    x = torch.randn(2, 5, 3, 4)
    angles = rotary_angles(FAR, 5, 4, 500_000.0, CPU)
    y = rotary(x, *angles, num_rope_heads=1, backend=backend)
    assert torch.equal(y[:, :, 1:], x[:, :, 1:])
    first = rotary(x[:, :, :1], *angles, backend=backend)
    compare({"y": y[:, :, :1]}, {"y": first}, TOLERANCE[torch.float32].forward)


def test_rotary_is_a_sound_operation() -> None:
    x, angles = torch.randn(1, 5, 2, 4), rotary_angles(3, 5, 4, 500_000.0, CPU)
    torch.library.opcheck(
        torch.ops.gecko_lab.rotary.default,
        (x.requires_grad_(), *angles, 1, False, "torch"),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_bfloat16_is_rounded_once() -> None:
    x = torch.randn(1, 9, 2, 4).bfloat16()
    assert torch.equal(rotate(x, FAR), rotate(x.float(), FAR).bfloat16())


def test_gradient_is_the_rotation_back() -> None:
    x = torch.randn(1, 4, 1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: rotate(x, 3), (x,))
    dy = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(rotate(x, 3), x, dy)
    assert rms_error(rotate(gradient, 3), dy) < TOLERANCE[torch.float64].gradient


def test_odd_key_dim_is_refused() -> None:
    with pytest.raises(ValueError, match="even key dim, got 5"):
        rotary_angles(0, 3, 5, 10_000.0, CPU)


@pytest.mark.parametrize(
    ("num_timesteps", "num_rope_heads", "message"),
    [(4, None, r"cos and sin \[L, S / 2\] for 5 timesteps"), (5, 3, "num_rope_heads must lie in 0 … 2, got 3")],
)
def test_rotary_refuses_what_does_not_fit(num_timesteps: int, num_rope_heads: int | None, message: str) -> None:
    angles = rotary_angles(0, num_timesteps, 4, 10_000.0, CPU)
    with pytest.raises(ValueError, match=message):
        rotary(torch.zeros(1, 5, 2, 4), *angles, num_rope_heads=num_rope_heads)
