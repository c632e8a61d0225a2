"""What a step is predicted to take, against a step that is computed."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

from gecko_lab import build
from gecko_lab.memory_account import account, next_token_loss
from gecko_lab.network import Network
from gecko_lab.recomputation import Recomputation

C = 16


def network(checkpoint_layers: Recomputation = False, family: str = "gecko") -> Network:
    return build(
        f"{family}-tiny", vocab_size=64, num_layers=2, layer={"chunk_size": C}, checkpoint_layers=checkpoint_layers
    )


def measured(built: Network, length: int) -> int:
    """The most that the tensors of a real step hold at once."""
    tokens = torch.zeros(2, length + 1, dtype=torch.int64)
    optimizer = torch.optim.AdamW(built.parameters())
    peaks = []
    for _ in range(2):  # the moments are made by the first step
        tracker = MemTracker()
        tracker.track_external(built, optimizer, tokens)
        with tracker:
            next_token_loss(built, tokens).backward()
            optimizer.step()
            optimizer.zero_grad()
        peaks.append(sum(kinds["Total"] for kinds in tracker.get_tracker_snapshot("peak").values()))
    return peaks[1]


@pytest.mark.parametrize("checkpoint_layers", [False, "selective", True])
def test_the_account_is_that_of_a_real_step(checkpoint_layers: Recomputation) -> None:
    predicted = account(lambda: network(checkpoint_layers), batch_size=2, length=5 * C + 3)
    assert predicted.total == pytest.approx(measured(network(checkpoint_layers), 5 * C + 3), rel=0.02)
    assert min(predicted.parameters, predicted.optimizer, predicted.activations) > 0


def test_recomputation_keeps_less() -> None:
    choices: tuple[Recomputation, ...] = (False, "selective", True)
    kept = [account(lambda how=how: network(how), batch_size=1, length=8 * C).activations for how in choices]
    assert kept[0] > 1.5 * kept[1] > 1.5 * kept[2]


@pytest.mark.parametrize("family", ["gecko", "megalodon"])
def test_memory_grows_no_faster_than_the_length(family: str) -> None:
    peaks = [account(lambda: network(family=family), batch_size=1, length=n * C).total for n in (16, 32, 64)]
    assert 0 < peaks[2] - peaks[1] <= 2.02 * (peaks[1] - peaks[0])
