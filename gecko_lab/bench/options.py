"""Options that several benchmarks have, checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gecko_lab.errors import ConfigurationError, nearest


def device_of(name: str) -> torch.device:
    """The device that `--device` names.

    Raises:
        ConfigurationError: there is none of that name here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigurationError(f"--device: there is no device {name!r}; try cpu, cuda, cuda:1 or auto") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigurationError(f"--device must be cpu, cuda or auto, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigurationError(f"--device {name}: PyTorch sees {torch.cuda.device_count()} CUDA devices here")
    return device


def at_least_one(**options: int | None) -> None:
    """Refuse numbers below one; None is none."""
    for name, value in options.items():
        if value is not None and value < 1:
            raise ConfigurationError(f"--{name} must be at least 1, got {value}")


def numbers(text: str, flag: str) -> list[int]:
    """The whole numbers from one between commas, each once; `4k` is 4,096.

    Raises:
        ConfigurationError: it holds something else.
    """
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(re.fullmatch(r"[1-9][0-9]{0,9}k?", piece) for piece in pieces):
        raise ConfigurationError(f"{flag}: expected numbers with commas between, such as 2048,16k, got {text!r}")
    found = [int(piece.rstrip("k")) * (1024 if piece.endswith("k") else 1) for piece in pieces]
    return list(dict.fromkeys(found))


def names(text: str, known: list[str], flag: str) -> list[str]:
    """The names between commas, each once, in the order given.

    Raises:
        ConfigurationError: names what is unknown.
    """
    asked = [name.strip() for name in text.split(",")]
    for name in asked:
        if name not in known:
            raise ConfigurationError(f"{flag}: unknown {name!r}{nearest(name, known)}")
    return list(dict.fromkeys(asked))


def new_folder(path: str | None, flag: str) -> Path | None:
    """A folder to write to, made where it is missing.

    Raises:
        ConfigurationError: it cannot be made.
    """
    if path is None:
        return None
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{flag} {path}: {error.strerror}") from None
    return Path(path)


@contextmanager
def threads_of(number: int | None) -> Iterator[None]:
    """PyTorch's threads on CPU inside; those it had are given back."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
