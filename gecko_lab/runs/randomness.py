"""The state of every random number generator of a process, as one tensor."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

_PYTHON_WORDS = 625  # of the Mersenne Twister: 624 and a position
_NUMPY_WORDS = 624


def random_state(device: torch.device) -> Tensor:
    """The states of Python's, NumPy's and PyTorch's generators, on the processor and on `device`; uint8 `[bytes]`.

    Its size depends on the kind of device alone.
    """
    version, words, gauss = random.getstate()
    kind, numpy_words, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002 — others use it
    if version != 3 or kind != "MT19937" or len(words) != _PYTHON_WORDS:
        raise RuntimeError(f"cannot keep the state of random generators of version {version} and kind {kind}")
    integers = np.array([*words, gauss is not None, *numpy_words, position, has_gauss], dtype=np.int64)
    parts = [
        torch.from_numpy(integers).view(torch.uint8),
        torch.tensor([gauss or 0.0, cached], dtype=torch.float64).view(torch.uint8),
        torch.get_rng_state(),
    ]
    if device.type == "cuda":
        parts.append(torch.cuda.get_rng_state(device))
    return torch.cat(parts)


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Put back what `random_state` gave on the same kind of device."""
    sizes = [8 * (_PYTHON_WORDS + 1 + _NUMPY_WORDS + 2), 16, torch.get_rng_state().numel()]
    integer_bytes, float_bytes, cpu, *rest = state.cpu().split([*sizes, state.numel() - sum(sizes)])
    integers = integer_bytes.clone().view(torch.int64).tolist()
    gauss, cached = float_bytes.clone().view(torch.float64).tolist()
    words, has_gauss = integers[:_PYTHON_WORDS], bool(integers[_PYTHON_WORDS])
    random.setstate((3, tuple(words), gauss if has_gauss else None))
    *numpy_words, position, numpy_has_gauss = integers[_PYTHON_WORDS + 1 :]
    np.random.set_state(("MT19937", np.array(numpy_words, dtype=np.uint32), position, numpy_has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(cpu.clone())
    if device.type == "cuda" and rest[0].numel():
        torch.cuda.set_rng_state(rest[0].clone(), device)
