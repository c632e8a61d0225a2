"""What a step is predicted to take, against a step that is computed."""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._C._profiler import _ExtraFields_Allocation
from torch.profiler import ProfilerActivity, profile

from gecko_lab import build
from gecko_lab.bench import memory
from gecko_lab.bench.models import Recipe
from gecko_lab.bench.training import Load, peak_bytes, predicted_bytes
from gecko_lab.gradients import clip_gradients
from gecko_lab.kernels.attention import attention
from gecko_lab.memory_account import account, next_token_loss
from gecko_lab.network import Network
from gecko_lab.optimizer import OptimizerSettings, build_optimizer
from gecko_lab.recomputation import Recomputation

C = 16


def network(checkpoint_layers: Recomputation = False, family: str = "gecko", chunk_size: int = C) -> Network:
    layer = {"chunk_size": chunk_size}
    return build(f"{family}-tiny", vocab_size=64, num_layers=2, layer=layer, checkpoint_layers=checkpoint_layers)


def measured(built: Network, length: int) -> int:
    """The most that PyTorch's allocator holds at once in a real step, inside of operations too."""
    tokens = torch.zeros(2, length + 1, dtype=torch.int64)
    optimizer = build_optimizer(built, OptimizerSettings())

    def step() -> None:
        next_token_loss(built, tokens).backward()
        clip_gradients(built.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()  # makes the moments
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    tree = profiled.profiler.kineto_results.experimental_event_tree()
    before = [*built.parameters(), *built.buffers(), tokens]
    before += [moment for state in optimizer.state.values() for moment in state.values()]
    sizes = sum(storage.nbytes() for storage in {x.data_ptr(): x.untyped_storage() for x in before}.values())
    return sizes + max(itertools.accumulate(size for _, size in sorted(allocations(tree))))


def allocations(events: list[Any]) -> Iterator[tuple[int, int]]:
    """Times and bytes, negative for what is freed."""
    for event in events:
        if isinstance(event.extra_fields, _ExtraFields_Allocation):
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from allocations(event.children)


@pytest.mark.parametrize("checkpoint_layers", [False, "selective", True])
def test_the_account_is_that_of_a_real_step(checkpoint_layers: Recomputation) -> None:
    predicted = account(lambda: network(checkpoint_layers), batch_size=2, length=5 * C + 3)
    assert predicted.total == pytest.approx(measured(network(checkpoint_layers), 5 * C + 3), rel=0.02)
    assert min(predicted.parameters, predicted.optimizer, predicted.activations) > 0


def test_long_steps_are_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    built = functools.partial(network, chunk_size=8 * C)
    exact = account(built, batch_size=1, length=48 * 8 * C)
    monkeypatch.setattr("gecko_lab.memory_account.FOLLOWED", 24 * 8 * C)
    assert account(built, batch_size=1, length=48 * 8 * C).total == pytest.approx(exact.total, rel=0.01)


def test_recomputation_keeps_less() -> None:
    choices: tuple[Recomputation, ...] = (False, "selective", True)
    kept = [account(lambda how=how: network(how), batch_size=1, length=8 * C).activations for how in choices]
    assert kept[0] > 1.5 * kept[1] > 1.5 * kept[2]


@pytest.mark.parametrize("family", ["gecko", "megalodon"])
def test_memory_grows_no_faster_than_the_length(family: str) -> None:
    """Beyond the lengths at which tables of fixed size decide which moment of a step takes the most."""
    built = functools.partial(network, family=family, chunk_size=4 * C)
    peaks = [account(built, batch_size=1, length=n * 4 * C).total for n in (16, 32, 64)]
    assert 0 < peaks[2] - peaks[1] <= 2.02 * (peaks[1] - peaks[0])


@torch.library.custom_op("gecko_lab::test_hidden", mutates_args=())
def hidden(x: Tensor, size: int) -> Tensor:
    """Takes `size` bytes that its result does not show."""
    return x + torch.zeros(size, dtype=torch.uint8).sum()


@hidden.register_fake
def _(x: Tensor, size: int) -> Tensor:
    return torch.empty_like(x)


class Hiding(nn.Module):
    """Calls `hidden` a number of times."""

    def __init__(self, size: int, calls: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))
        self.size, self.calls = size, calls

    def forward(self) -> Tensor:
        results = [hidden(self.weight.detach(), self.size) for _ in range(self.calls)]
        return torch.stack([self.weight * y for y in results]).sum()


@pytest.mark.parametrize("calls", [1, 3])
def test_what_an_operation_takes_inside_is_seen_and_let_go(calls: int) -> None:
    totals = [
        account(lambda n=n: Hiding(n, calls), lambda model, _: model(), batch_size=1, length=1).total
        for n in (0, 100_000, 100_000_000)
    ]
    assert totals[2] - totals[1] == 100_000_000 - 100_000
    assert 0 < totals[1] - totals[0] <= 100_000


def test_an_operation_that_asks_for_values_is_seen_by_its_results() -> None:
    class Documents(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x = nn.Parameter(torch.ones(1, 64, 2, 8))

        def forward(self, segments: Tensor) -> Tensor:
            x, names = self.x, {"query_segments": segments, "key_segments": segments}
            return attention(x, x, x, pattern="window", size=16, **names).sum()

    def loss(model: Documents, tokens: Tensor) -> Tensor:
        return model(tokens[:, 1:])

    found = account(Documents, loss, batch_size=1, length=64)
    assert found.temporary >= 3 * found.parameters > 0  # the gradients of queries, keys and values


@pytest.mark.skipif(not memory.KNOWN, reason="the system does not tell a process its peak")
@pytest.mark.parametrize(("checkpoint_layers", "length"), [(False, 512), (True, 1024)])
def test_predicted_bytes_are_those_that_a_process_takes(checkpoint_layers: bool, length: int) -> None:
    recipe = Recipe("gecko", "gecko", "15m", 16384, checkpoint_layers=checkpoint_layers)
    load = Load(recipe, 1, length, "32-true", torch.device("cpu"), 1)
    predicted = predicted_bytes(load)
    assert predicted is not None
    assert peak_bytes(load) == pytest.approx(predicted, rel=0.1)
