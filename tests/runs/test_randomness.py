"""The state of every random number generator, kept and put back."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.runs.randomness import random_state, set_random_state

CPU = torch.device("cpu")


def draws() -> list[float]:
    """Numbers of every generator; an odd number of normal ones, of which the second is kept for the next call."""
    return [
        *(random.random(), random.gauss(0, 1)),
        *(np.random.rand(), np.random.randn()),  # noqa: NPY002 — it is what others use
        *(torch.rand(()).item(), torch.randn(()).item()),
    ]


@given(seed=st.integers(0, 2**31), before=st.integers(0, 3))
def test_random_state_put_back_gives_the_same_numbers(seed: int, before: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    for _ in range(before):
        draws()
    state = random_state(CPU)
    expected = draws() + draws()
    size = state.numel()
    assert random_state(CPU).numel() == size
    set_random_state(state, CPU)
    assert torch.equal(random_state(CPU), state)
    assert draws() + draws() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_random_state_has_the_gpu_too() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    state = random_state(device)
    expected = torch.rand(3, device=device)
    set_random_state(state, device)
    assert torch.equal(torch.rand(3, device=device), expected)
