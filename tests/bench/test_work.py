"""The least work of operations: counted one by one, and as the components count it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gecko_lab.bench.large_cases import large_case, large_case_names
from gecko_lab.bench.work import Work, least_work
from gecko_lab.components.attention.sliding_chunk import SlidingChunkAttention
from gecko_lab.components.memory.adaptive import AdaptiveWorkingMemory
from gecko_lab.components.moving_average.complex_ema import ComplexEMA

SMALL = st.integers(1, 9)


@given(SMALL, st.integers(1, 60), SMALL, SMALL, SMALL, SMALL)
def test_attention_counts_the_pairs_that_see_each_other(
    batch: int, length: int, num_heads: int, key_dim: int, value_dim: int, chunk_size: int
) -> None:
    shape = {"batch": batch, "length": length, "num_heads": num_heads, "key_dim": key_dim, "value_dim": value_dim}
    work = least_work("attention", {**shape, "chunk_size": chunk_size}, 4)
    assert work is not None
    pairs = sum(j <= i and i // chunk_size - j // chunk_size <= 1 for i in range(length) for j in range(length))
    assert work["forward"].flops == 2 * batch * num_heads * (key_dim + value_dim) * pairs
    component = SlidingChunkAttention(num_heads, key_dim, value_dim, chunk_size, num_rope_heads=0)
    assert work["forward"].flops == pytest.approx(batch * length * component.flops_per_token(length))


def test_memory_and_moving_average_count_as_the_components() -> None:
    memory = least_work("working_memory", {"B": 2, "L": 100, "H": 3, "S": 8, "V": 5, "chunk_size": 16}, 2)
    average = least_work("cema", {"batch": 2, "length": 100, "num_features": 24, "num_states": 16}, 2)
    assert memory is not None
    assert average is not None
    assert memory["forward"].flops == 200 * AdaptiveWorkingMemory(3, 8, 5, 16).flops_per_token(100)
    assert average["forward"].flops == 200 * ComplexEMA(24, num_dims=16).flops_per_token(100)


@pytest.mark.parametrize("name", large_case_names())
def test_every_large_operation_has_its_work(name: str) -> None:
    case = large_case(name)
    for problem in case.problems["full"]:
        work: dict[str, Any] | None = least_work(name, problem.shape._asdict(), 2)
        assert work is not None
        forward, both = work["forward"], work["forward_backward"]
        assert 0 < forward.bytes < both.bytes
        assert 0 <= forward.flops <= both.flops == 3 * forward.flops
        assert case.describe(problem.shape)


def test_seconds_are_those_of_the_nearer_ceiling() -> None:
    ceilings = {"copy_bytes_per_second": 10.0, "matmul_flops_per_second": 100.0}
    assert Work(flops=200, bytes=5).seconds(ceilings) == 2.0
    assert Work(flops=200, bytes=50).seconds(ceilings) == 5.0


def test_least_work_of_what_is_not_known() -> None:
    assert least_work("abacus", {}, 4) is None
