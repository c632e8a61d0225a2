"""What is written, held and read, against the definitions."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gecko_lab.components.memory.adaptive import AdaptiveWorkingMemory
from gecko_lab.components.memory.additive import AdditiveMemory
from gecko_lab.components.memory.chunked import ChunkedMemory
from gecko_lab.microscope.memory import WRITE_RATIO_EDGES, MemorySeen, look_at_memory
from gecko_lab.state import Segments
from tests.components.catalogue import starts_at

H, S, V, C = 2, 3, 5, 4


def look(memory: ChunkedMemory, q: Tensor, k: Tensor, v: Tensor, segments: Segments | None = None) -> MemorySeen:
    output = memory(q, k, v, None, segments)
    return look_at_memory(memory, {"q": q, "k": k, "v": v, "state": None, "segments": segments}, output)


def draw(length: int, batch: int = 2, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(batch, length, H, dim, generator=generator) for dim in (S, S, V))
    return q, k, v


def ratios_by_definition(k: Tensor, segments: Segments | None) -> Tensor:
    """ρ [B, N, H, F]: the share of a chunk's last document in all keys of it that were written so far."""
    ids = torch.zeros(k.shape[:2], dtype=torch.long) if segments is None else segments.ids
    expected = torch.full((k.shape[0], k.shape[1] // C, *k.shape[2:]), math.nan)
    for row in range(k.shape[0]):
        written: list[int] = []
        for n in range(k.shape[1] // C):
            places = range(n * C, (n + 1) * C)
            chunk = [t for t in places if ids[row, t] == ids[row, places[-1]]]
            written = [t for t in written if ids[row, t] == ids[row, places[-1]]]
            if written:
                total = torch.logsumexp(k[row, written + chunk], dim=0)
                expected[row, n] = (torch.logsumexp(k[row, chunk], dim=0) - total).exp()
            written += chunk
    return expected


@settings(max_examples=40)
@given(st.data())
def test_write_ratios_are_those_of_the_definition_for_any_documents_and_any_split(data: Any) -> None:
    length = data.draw(st.integers(1, 30))
    places = data.draw(st.lists(st.integers(0, length - 1), max_size=5))
    cut = data.draw(st.integers(0, length))
    q, k, v = draw(length)
    segments = Segments.of(starts_at(length, places, [])) if places else None
    memory = AdaptiveWorkingMemory(H, S, V, C)
    expected = ratios_by_definition(k, segments)
    torch.testing.assert_close(memory.write_ratios(k, None, segments), expected, equal_nan=True)
    state, pieces = None, []
    for piece in (slice(0, cut), slice(cut, length)):
        if piece.start < piece.stop:
            part = None if segments is None else Segments(*(x[:, piece] for x in segments))
            pieces.append(memory.write_ratios(k[:, piece], state, part))
            _, state = memory(q[:, piece], k[:, piece], v[:, piece], state, part)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected, equal_nan=True)


def test_write_ratios_of_equal_keys_fall_as_one_over_the_chunks() -> None:
    q, k, v = draw(5 * C)
    metrics = look(AdditiveMemory(H, S, V, C), q, torch.zeros_like(k), v).metrics()
    assert metrics["write_ratio_max"] == pytest.approx(1 / 2)
    assert metrics["write_ratio_median"] == pytest.approx(1 / 4)
    assert metrics["write_ratio_min"] == pytest.approx(1 / 5)


def test_write_ratios_are_of_the_features() -> None:
    memory = AdaptiveWorkingMemory(H, S, V, C, capacity=2.0)
    _, k, _ = draw(3 * C)
    assert memory.feature_map is not None
    features = torch.einsum("blhs,hsf->blhf", k, memory.feature_map.detach())
    torch.testing.assert_close(memory.write_ratios(k), ratios_by_definition(features, None), equal_nan=True)


@pytest.mark.parametrize("made", [AdaptiveWorkingMemory, AdditiveMemory])
def test_norm_and_read_mass_are_those_by_hand(made: Any) -> None:
    q, k, v = draw(4 * C + 1)
    memory = made(H, S, V, C)
    read, state = memory(q, k, v)
    metrics = look(memory, q, k, v).metrics()
    norms = state.next_memory.flatten(2).norm(dim=-1).flatten()
    assert metrics["norm_min"] == pytest.approx(norms.min().item())
    assert metrics["norm_max"] == pytest.approx(norms.max().item())
    assert metrics["read_mass"] == pytest.approx((read.norm() / v.norm()).item())
    assert metrics["readers"] == pytest.approx((2 * C + 1) / (4 * C + 1))


def test_histogram_of_write_ratios() -> None:
    q, k, v = draw(2 * C)
    bins = look(AdditiveMemory(H, S, V, C), q, torch.zeros_like(k), v).histogram()
    assert bins is not None
    place = int(torch.searchsorted(WRITE_RATIO_EDGES, 0.5)) - 1
    assert bins[place] == pytest.approx(1.0)
    assert look(AdditiveMemory(H, S, V, C), q[:, :C], k[:, :C], v[:, :C]).histogram() is None


def test_findings_name_the_head_that_nothing_is_written_to() -> None:
    q, k, v = draw(6 * C)
    memory = AdaptiveWorkingMemory(H, S, V, C)
    assert look(memory, q, k, v).findings() == []
    k[:, :C, 1] += 14.0  # later chunks weigh e^-14, 8e-7: more than float32 resolves
    assert look(memory, q, k, v).findings() == []
    k[:, :C, 1] += 10.0
    (finding,) = look(memory, q, k, v).findings()
    assert "nothing is written to head 1:" in finding.reason
    assert finding.patience == 1


@pytest.mark.parametrize("reason", ["no values", "short documents"])
def test_findings_of_a_memory_that_nobody_reads(reason: str) -> None:
    q, k, v = draw(5 * C)
    memory = AdaptiveWorkingMemory(H, S, V, C)
    segments = None
    if reason == "no values":
        v[:, : 4 * C] = 0.0
    else:
        segments = Segments.of(starts_at(5 * C, list(range(5 * C)), list(range(0, 5 * C, 3))))
    (finding,) = look(memory, q, k, v, segments).findings()
    assert finding.kind == "nothing is read"
    assert finding.patience == 3
    assert look(memory, q, k, v, segments).readers == 0


def test_a_sequence_that_ends_before_a_write_shows_no_ratio() -> None:
    metrics = look(AdaptiveWorkingMemory(H, S, V, C), *draw(C - 1)).metrics()
    assert not any(name.startswith("write_ratio") for name in metrics)
    assert metrics["norm_max"] == 0.0
