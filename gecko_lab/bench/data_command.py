"""`gecko-lab bench data`."""

from __future__ import annotations

import inspect
import json as json_format
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from gecko_lab import durations
from gecko_lab.bench import data_table, machine
from gecko_lab.bench.display import display
from gecko_lab.errors import ConfigurationError

if TYPE_CHECKING:
    from gecko_lab.bench.data_readers import Reader

LEAST_RATIO = 1.0
"""Our speed over LitData's in the training process."""

LARGEST_WAIT = 0.02
"""Share of a training's time in which it waits for the loader."""

_MOST_TOKENS = 10**9  # what is read must stay in memory


def data(
    *,
    batch_size: int = 8,
    sequence_length: int = 2048,
    num_workers: str = "0,1,2",
    tokens: str = "64M",
    rounds: int = 5,
    train: str | None = "15m",
    train_batch_size: int = 1,
    train_sequence_length: int = 2048,
    train_steps: int = 3,
    threads: int | None = None,
    json: bool = False,
) -> None:
    """Time the data loader beside LitData's own, and see whether training ever waits for it.

    Random text is prepared once; both loaders read the same files. Each is first checked: one pass must give exactly
    the sequences that were written. What is wrong gets no speed, and the exit code is 1. Then both take turns with
    shuffled batches of int64: medians and spread of the rounds, and the ratio. At last a few real optimiser steps of
    Gecko show which share of the time training waits for the loader.

    Example: gecko-lab bench data --num_workers 0 --threads 2

    Args:
        batch_size: sequences of a batch.
        sequence_length: targets of a sequence.
        num_workers: numbers of processes that load, with commas between; 0 = the training process itself.
        tokens: of the text, such as 500k or 64M; at most 1G, so that it stays in memory.
        rounds: samples of each time.
        train: size of the Gecko that is trained; `null` for none.
        train_batch_size: sequences of a training step.
        train_sequence_length: targets of a sequence in training.
        train_steps: optimiser steps.
        threads: of PyTorch; what PyTorch takes by default.
        json: print JSON.
    """
    given = {name: value for name, value in locals().items() if name != "json"}
    defaults = inspect.signature(data).parameters
    changed = [f"--{name} {value or 'null'}" for name, value in given.items() if value != defaults[name].default]
    workers = _worker_numbers(num_workers)
    num_tokens = _number_of_tokens(tokens)
    _at_least_one(
        batch_size=batch_size,
        sequence_length=sequence_length,
        rounds=rounds,
        train_batch_size=train_batch_size,
        train_sequence_length=train_sequence_length,
        train_steps=train_steps,
        threads=threads,
    )
    # Lightning and LitData take seconds to load, and the other verbs of this package need neither.
    from gecko_lab.bench import data_training
    from gecko_lab.bench.data_corpus import make_corpus
    from gecko_lab.bench.data_readers import LitDataReader, OurReader

    model = None if train is None else data_training.build_model(train)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with tempfile.TemporaryDirectory(prefix="gecko-lab-bench-") as folder, display() as tell, _without_advice():
            tell("the machine's ceilings")
            result: dict[str, Any] = {
                "command": " ".join(["gecko-lab bench data", *changed]),
                "batch_size": batch_size,
                "sequence_length": sequence_length,
                "rounds": rounds,
                "machine": machine.describe(torch.device("cpu"), torch.float32, "full"),
            }
            tell(f"preparing {num_tokens:,} tokens")
            corpus = make_corpus(Path(folder), num_tokens)
            readers: list[Reader] = [
                reader(corpus, sequence_length, batch_size) for reader in (OurReader, LitDataReader)
            ]
            trained = OurReader(corpus, train_sequence_length, train_batch_size)
            for reader in readers:  # the first batch is timed apart
                _require_batches(reader, 2, "--sequence_length, --batch_size")
            if model is not None:
                _require_batches(trained, 1, "--train_sequence_length, --train_batch_size")
            result["corpus"] = corpus.describe()
            result["loaders"] = [_compare(readers, number, rounds, tell) for number in workers]
            result["training"] = None
            if model is not None:
                shape = {"batch_size": train_batch_size, "sequence_length": train_sequence_length}
                measured = data_training.train(model, trained, train_steps, tell)
                result["training"] = {"size": train, **shape, **measured}
            result["bars"] = _bars(result)
    finally:
        torch.set_num_threads(before)
    print(json_format.dumps(result, indent=2)) if json else data_table.show(result)
    if not all(verdict["green"] for loader in result["loaders"] for verdict in loader["check"].values()):
        sys.exit(1)


def _compare(readers: list[Reader], num_workers: int, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Check both loaders, ours first, then time what passed."""
    from gecko_lab.bench.data_check import check_pass
    from gecko_lab.bench.data_timing import read_in_turns

    verdicts = {}
    for reader in readers:
        tell(f"{reader.name}, {num_workers} workers: check")
        verdicts[reader.name] = check_pass(reader, num_workers)
    sound = [reader for reader in readers if verdicts[reader.name].green]
    readings = read_in_turns(sound, num_workers, rounds, tell) if sound else {}
    measured = {name: reading.as_dict() for name, reading in readings.items()}
    medians = [reading["tokens_per_second"]["median"] for reading in measured.values()]
    return {
        "num_workers": num_workers,
        "check": {name: verdict.as_dict() for name, verdict in verdicts.items()},
        "readers": measured,
        "ratio": medians[0] / medians[1] if len(medians) == 2 else None,
    }


def _bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What must hold of the speed with 0 workers and of the waiting; only of what was measured."""
    ratios = [loader["ratio"] for loader in result["loaders"] if loader["num_workers"] == 0]
    bars = [{"of": "ratio", "limit": LEAST_RATIO, "value": r, "met": r >= LEAST_RATIO} for r in ratios if r is not None]
    if result["training"] is not None:
        share = result["training"]["waiting"]
        bars.append({"of": "waiting", "limit": LARGEST_WAIT, "value": share, "met": share < LARGEST_WAIT})
    return bars


def _worker_numbers(text: str) -> list[int]:
    """The numbers between commas, each once."""
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,3}", piece) for piece in pieces):
        raise ConfigurationError(f"--num_workers: expected numbers with commas between, such as 0,1,2, got {text!r}")
    return list(dict.fromkeys(map(int, pieces)))


def _number_of_tokens(text: str) -> int:
    try:
        number = int(durations.read(f"{text} tokens", "--tokens").number)
    except ConfigurationError:
        raise ConfigurationError(f"--tokens: expected a number such as 500k or 64M, got {text!r}") from None
    if not 2 <= number <= _MOST_TOKENS:
        raise ConfigurationError(f"--tokens must be at least 2 and at most 1G, got {text}")
    return number


def _at_least_one(**options: int | None) -> None:
    for name, value in options.items():
        if value is not None and value < 1:
            raise ConfigurationError(f"--{name} must be at least 1, got {value}")


def _require_batches(reader: Reader, number: int, flags: str) -> None:
    """Refuse a text that is too short."""
    found = len(reader.starts) // reader.batch_size
    if found < number:
        raise ConfigurationError(
            f"--tokens: {len(reader.corpus.stream):,} hold {found} whole batches of {reader.batch_size} sequences of "
            f"{reader.sequence_length} tokens for {reader.name}, and {number} are needed; give more, or lower {flags}"
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Without warnings of other people's code that do not concern the user."""
    with warnings.catch_warnings():
        for message in (
            "The given NumPy array is not writable",  # LitData hands out its maps of files
            r".isinstance\(treespec, LeafSpec\). is deprecated",
            "The '\\w+' does not have many workers",
            "The number of training batches",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
