"""What is particular to the attentions: how many keys they see, what they cost, which options clash."""

from typing import Any

import pytest
import torch

from gecko_lab.components.attention.cached import CachedAttention
from gecko_lab.components.attention.chunk import ChunkAttention
from gecko_lab.components.attention.full import FullAttention
from gecko_lab.components.attention.sliding_chunk import SlidingChunkAttention
from gecko_lab.components.attention.sliding_window import SlidingWindowAttention
from gecko_lab.kernels.attention.pattern import visible
from gecko_lab.kernels.rotary import rotary_angles, rotate

C = 4
ATTENTIONS: list[tuple[type[CachedAttention], dict[str, Any]]] = [
    (ChunkAttention, {}),
    (SlidingChunkAttention, {}),
    (SlidingWindowAttention, {}),
    (SlidingWindowAttention, {"window": 3}),
    (FullAttention, {}),
]


@pytest.mark.parametrize(("component", "options"), ATTENTIONS)
def test_flops_are_those_of_the_keys_that_are_seen(component: type[CachedAttention], options: dict[str, Any]) -> None:
    attention = component(2, 4, 6, C, **options)  # type: ignore[call-arg, arg-type]
    for length in (1, C - 1, C, C + 1, 2 * C, 5 * C + 3):
        keys = torch.arange(length)
        pairs = int(visible(keys, keys, attention.pattern, attention.size).sum())
        assert attention.mean_visible(length) * length == pytest.approx(pairs, rel=1e-12)
        assert attention.flops_per_token(length) * length == pytest.approx(2 * 2 * (4 + 6) * pairs, rel=1e-12)


@pytest.mark.parametrize(("component", "options"), ATTENTIONS)
def test_what_is_kept_is_what_later_queries_see(component: type[CachedAttention], options: dict[str, Any]) -> None:
    """Neither fewer keys nor, but for whole chunks, more."""
    attention = component(1, 2, 2, C, **options)  # type: ignore[call-arg, arg-type]
    timesteps = torch.arange(60)
    seen = visible(timesteps, timesteps, attention.pattern, attention.size)
    for position in range(1, 30):
        needed = int(seen[position:, :position].any(dim=0).sum())
        assert attention.kept(position) == needed


def test_the_window_is_two_chunks_by_default() -> None:
    assert SlidingWindowAttention(2, 4, 6, C).size == 2 * C


def test_attention_weights_are_dropped_in_training_only() -> None:
    attention = SlidingChunkAttention(2, 4, 6, C, 0.5)
    q, k, v = torch.randn(1, 9, 2, 4), torch.randn(1, 9, 2, 4), torch.randn(1, 9, 2, 6)
    assert not torch.equal(attention(q, k, v)[0], attention(q, k, v)[0])
    attention.eval()
    assert torch.equal(attention(q, k, v)[0], attention(q, k, v)[0])


def test_only_the_first_heads_are_rotated() -> None:
    """A head without positions sees a set: the order of earlier keys means nothing to it."""
    attention = FullAttention(2, 4, 6, C, num_rope_heads=1, rope_base=100.0)
    q, k, v = torch.randn(1, 5, 2, 4), torch.randn(1, 5, 2, 4), torch.randn(1, 5, 2, 6)
    order = torch.tensor([3, 1, 0, 2, 4])

    def last(k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        rotation = attention.rotation(5, None, q.device)
        assert rotation is not None
        return attention(*rotate(q, k, *rotation), v)[0][:, -1]

    y, shuffled = last(k, v), last(k[:, order], v[:, order])
    torch.testing.assert_close(shuffled[:, 1], y[:, 1])
    assert not torch.allclose(shuffled[:, 0], y[:, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((2, 4, 6, C), {"num_rope_heads": 3}, r"num_rope_heads must lie in 0 … 2 \(num_heads\), got 3"),
        ((2, 4, 6, C), {"num_rope_heads": -1}, "got -1"),
        ((2, 5, 6, C), {}, "an even key dim per head, got 5"),
        ((2, 4, 6, 0), {}, "at least 1 timestep, got 0"),
    ],
)
def test_options_that_clash_are_refused(arguments: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"FullAttention: .*{message}"):
        FullAttention(*arguments, **options)


def test_an_odd_key_dim_without_positions_is_fine() -> None:
    x = torch.randn(1, 5, 2, 3)
    attention = FullAttention(2, 3, 3, C, num_rope_heads=0)
    assert attention.rotation(5, None, x.device) is None
    assert attention(x, x, x)[0].isfinite().all()


def test_positions_go_on_where_the_state_ends() -> None:
    attention = SlidingChunkAttention(2, 4, 6, C)
    x, v = torch.randn(1, 7, 2, 4), torch.randn(1, 7, 2, 6)
    _, state = attention(x, x, v)
    rotation, whole = attention.rotation(3, state, x.device), attention.rotation(10, None, x.device)
    assert rotation is not None
    assert whole is not None
    assert torch.equal(rotation.cos, whole.cos[7:])
    assert torch.equal(rotation.sin, whole.sin[7:])
    assert rotation.num_heads == 2


def test_rotating_part_of_a_group_that_shares_keys_is_refused() -> None:
    q, k = torch.randn(1, 5, 4, 2), torch.randn(1, 5, 2, 2)
    angles = rotary_angles(0, 5, 2, 100.0, q.device)
    _, turned = rotate(q, k, *angles, 2)
    assert torch.equal(turned[:, :, 1], k[:, :, 1])
    assert not torch.equal(turned[:, :, 0], k[:, :, 0])
    with pytest.raises(ValueError, match="num_rope_heads 1 ends inside a group of 2 heads that share their keys"):
        rotate(q, k, *angles, 1)
