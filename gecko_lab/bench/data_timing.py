"""How fast loaders read: they take turns, so that a machine's moods meet all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gecko_lab.bench.data_readers import Reader
from gecko_lab.bench.timing import Times


@dataclass
class Reading:
    """Seconds of a loader, a sample a round.

    Attributes:
        first_batch: from nothing open to the first batch.
        others: all other batches together.
        num_tokens: targets in those others.
    """

    num_tokens: int
    first_batch: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: tokens per second of the others, seconds of the first."""
        speeds = Times([self.num_tokens / seconds for seconds in self.others])
        return {"tokens_per_second": speeds.as_dict(), "first_batch_seconds": Times(self.first_batch).as_dict()}


def read_in_turns(
    readers: Sequence[Reader], num_workers: int, rounds: int, tell: Callable[[str], None] = lambda what: None
) -> dict[str, Reading]:
    """Let every loader read the same number of whole batches once a round; each round another one begins.

    Args:
        readers: have read the corpus before, so that the files are in memory and their checksums are known.
        num_workers: processes that load; 0 = this one.
        rounds: samples.
        tell: hears what runs next, outside the samples.

    Returns:
        The readings by the reader's name.
    """
    num_batches = min(len(reader.starts) // reader.batch_size for reader in readers)
    tokens = {reader.name: (num_batches - 1) * reader.batch_size * reader.sequence_length for reader in readers}
    readings = {name: Reading(count) for name, count in tokens.items()}
    for number in range(rounds):
        turn = number % len(readers)
        for reader in (*readers[turn:], *readers[:turn]):
            tell(f"{reader.name}, {num_workers} workers, round {number + 1} of {rounds}")
            begin = time.perf_counter()
            batches = reader.batches(num_workers)
            next(batches)
            ready = time.perf_counter()
            for _ in islice(batches, num_batches - 1):
                pass
            end = time.perf_counter()
            readings[reader.name].first_batch.append(ready - begin)
            readings[reader.name].others.append(end - ready)
            for _ in batches:  # to the end, so that nothing goes on beside the next one
                pass
    return readings
