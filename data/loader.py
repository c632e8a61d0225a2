"""The DataLoader of datasets that give whole batches."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from gecko_lab.data.errors import DataError

# From a process to another a tensor goes as a file of shared memory, which for small ones costs more than copying.
_COPIED_BYTES = 1 << 21


def batch_loader(samples: Dataset[Any], sampler: Sampler[int], *, batch_size: int, num_workers: int) -> DataLoader[Any]:
    """A loader of batches, dicts of tensors.

    Arguments:
        samples: their `__getitems__` gives a batch.
        sampler: indices.
        batch_size: samples of a batch.
        num_workers: processes; 0 = this one.
    """
    pinned = torch.cuda.is_available()  # by a thread that knows tensors only
    return BatchLoader(
        samples,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        worker_init_fn=_outlive_signals if num_workers > 0 else None,
        collate_fn=_as_arrays if num_workers > 0 and not pinned else _as_it_is,
        pin_memory=pinned,
        persistent_workers=num_workers > 0,
        generator=torch.Generator().manual_seed(0),  # else each iteration draws a seed from the training's numbers
    )


class BatchLoader(DataLoader[Any]):
    """A DataLoader that begins where training stands.

    The datamodule keeps the position; that there is a state tells Lightning that a pass can be gone on with. A worker's
    DataError comes as it was raised, without the worker's traceback in its message. (Lightning makes such loaders anew
    for predicting: the constructor stays PyTorch's.)
    """

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:  # type: ignore[override]
        try:
            for batch in super().__iter__():
                yield {name: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for name, x in batch.items()}
        except DataError as error:
            raise DataError(str(error).rpartition(f"{DataError.__name__}: ")[2].strip()) from None


def _outlive_signals(worker: int) -> None:
    """Go on while the training stops: Ctrl-C and clusters send their signals to worker processes too.

    A SIGTERM of the training process itself is obeyed, at once.
    """
    for signum in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # of this thread and those that it starts
    threading.Thread(target=_obey, args=(os.getppid(),), daemon=True).start()


def _obey(parent: int) -> None:
    """Wait for a SIGTERM of the parent's; handlers are not told whose it is."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent:
        pass
    os._exit(0)


def _as_it_is(batch: Any) -> Any:
    return batch


def _as_arrays(batch: Any) -> dict[str, Any]:
    small = sum(x.nbytes for x in batch.values()) < _COPIED_BYTES
    return {name: x.numpy() if small else x for name, x in batch.items()}
