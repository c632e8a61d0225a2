"""Times that can be compared: contenders take turns in one process, so that a machine's moods meet all of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from gecko_lab.kernels.case import Contender, Inputs, Shape

SHORTEST_SAMPLE = 0.02
"""Seconds: what is faster is run several times for one sample."""

LONG_SAMPLE = 60.0
"""Seconds: beside them it does not count what a first run sets up once, and so the first run is the first sample."""

PASSES = ("forward", "forward_backward")


@dataclass(frozen=True)
class Times:
    """Seconds of one run, a sample a round."""

    samples: list[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.samples)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in seconds."""
        ends = {"min": min(self.samples), "max": max(self.samples)}
        return {"median": self.median, **ends, "samples": self.samples}


def passes(contender: Contender[Any], inputs: Inputs, shape: Shape) -> dict[str, Callable[[], None]]:
    """What is run: `forward` without autograd, and `forward_backward` to the gradients of all floating inputs."""
    leaves = {name: x.detach().requires_grad_(x.is_floating_point()) for name, x in inputs.items()}
    wanted = [x for x in leaves.values() if x.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            contender.run(leaves, shape)

    def forward_backward() -> None:
        y = contender.run(leaves, shape)
        torch.autograd.grad(y, wanted, torch.ones_like(y))

    return {"forward": forward, "forward_backward": forward_backward}


def interleave(
    contenders: tuple[Contender[Any], ...],
    inputs: Inputs,
    shape: Shape,
    rounds: int,
    tell: Callable[[str], None] = lambda what: None,
) -> dict[tuple[str, str], Times]:
    """Time every pass of every contender; see `take_turns`.

    Returns:
        Times by (contender, pass).
    """
    runs = {(one.name, name): run for one in contenders for name, run in passes(one, inputs, shape).items()}
    return take_turns(runs, next(iter(inputs.values())).device, rounds, tell)


def take_turns(
    runs: Mapping[tuple[str, str], Callable[[], object]],
    device: torch.device,
    rounds: int,
    tell: Callable[[str], None] = lambda what: None,
) -> dict[tuple[str, str], Times]:
    """Time every run once a round, after a round that does not count but for runs of a minute and more.

    Each round another contender begins.

    Args:
        runs: by contender and what it does; those of one contender follow each other.
        device: to wait for.
        rounds: samples.
        tell: hears what runs next, outside the samples.

    Returns:
        Times under the same keys.
    """
    samples: dict[tuple[str, str], list[float]] = {key: [] for key in runs}
    repeats: dict[tuple[str, str], int] = {}
    for key, run in runs.items():
        tell(f"{_words(key)}, warm-up")
        seconds = sample(run, 1, device)
        if seconds < 1:  # the very first run pays for what is set up once: a second one tells how long it takes
            seconds = sample(run, 1, device)
        repeats[key] = max(1, math.ceil(SHORTEST_SAMPLE / seconds))
        if seconds >= LONG_SAMPLE:
            samples[key].append(seconds)
    names = list(dict.fromkeys(name for name, _ in runs))
    for number in range(rounds):
        turn = number % len(names) if names else 0
        for key in (key for name in names[turn:] + names[:turn] for key in runs if key[0] == name):
            if number >= len(samples[key]):
                tell(f"{_words(key)}, round {number + 1} of {rounds}")
                samples[key].append(sample(runs[key], repeats[key], device))
    return {key: Times(values) for key, values in samples.items()}


def _words(key: tuple[str, str]) -> str:
    return f"{key[0]}: {key[1].replace('_', ' + ')}"


def sample(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Seconds of one run, from several in a row."""
    synchronize(device)
    begin = time.perf_counter()
    for _ in range(repeats):
        run()
    synchronize(device)
    return (time.perf_counter() - begin) / repeats


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
