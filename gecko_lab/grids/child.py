"""A run of a grid as a process of its own, which stops, with a checkpoint, when the process that started it is gone."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1


def train(words: Sequence[str]) -> int:
    """Run `gecko-lab WORDS` in this process.

    Returns:
        The exit code.
    """
    from gecko_lab.__main__ import main  # after the environment says how many threads there are

    sys.argv = ["gecko-lab", *words]  # what the run's record shows
    return main(list(words))


def follow(parent: int) -> None:
    """Be sent SIGTERM when the parent ends, however it ends; exit at once if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    follow(int(sys.argv[1]))
    sys.exit(train(sys.argv[2:]))
