"""The gate before any speed: does a loader give what was written, all of it, once?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from gecko_lab.bench.data_readers import Reader


@dataclass(frozen=True)
class PassVerdict:
    """What one pass of a loader held.

    Attributes:
        sequences: that a pass holds.
        missing: how many of them did not come.
        wrong: sequences that came and are none of them, or came again.
        failure: what the loader raised, if the pass did not come to its end.
    """

    sequences: int
    missing: int
    wrong: int
    failure: str | None = None

    @property
    def green(self) -> bool:
        """Whether the pass held exactly what was written."""
        return self.failure is None and self.missing == self.wrong == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"green": self.green, **asdict(self)}


def check_pass(reader: Reader, num_workers: int) -> PassVerdict:
    """Compare the sequences of one pass, whatever their order, with those of the stream as it was drawn."""
    stream, width = reader.corpus.stream, reader.sequence_length + 1
    expected = Counter(_digest(stream[start : start + width].astype(np.int64)) for start in reader.starts.tolist())
    found: Counter[bytes] = Counter()
    failure = None
    try:
        found.update(_digest(row) for row in islice(_rows(reader, num_workers), expected.total()))
    except Exception as error:  # whatever a loader raises is its verdict
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return PassVerdict(expected.total(), (expected - found).total(), (found - expected).total(), failure)


def _rows(reader: Reader, num_workers: int) -> Iterator[npt.NDArray[np.int64]]:
    for batch in reader.batches(num_workers):
        if batch.dtype != torch.int64:
            raise TypeError(f"batches are {batch.dtype}, not int64")
        yield from batch.numpy()


def _digest(row: npt.NDArray[np.int64]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
