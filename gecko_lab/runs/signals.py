"""The signals by which a run is asked to stop: noted at once, obeyed where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

GRACE_SECONDS = 18.0
"""How long a step or a validation may still take. Clusters kill 30 s after their warning: the rest is for writing."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(Exception):
    """The run was asked to stop.

    Attributes:
        signum: the signal.
        step: the step whose checkpoint was written; none where it could not be.
    """

    def __init__(self, signum: int, step: int | None = None) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum, self.step = signum, step


class Signals:
    """Notes SIGTERM, SIGINT and SIGUSR1 while it is installed.

    Attributes:
        requested: the signal that came; none before.
        expired: the time of grace is over, and nobody could be told.
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.expired = False
        self._shielded = False
        self._alarm = False
        self._given: dict[int, Any] = {}

    def install(self, *, alarm: bool) -> None:
        """Take the signals; `restore` gives them back.

        Args:
            alarm: raise `Interrupted` wherever the program is, once the time of grace is over; otherwise wait.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._alarm = alarm
        self._given = {signum: signal.signal(signum, self._note) for signum in _SIGNALS}
        self._given[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._expire)

    def restore(self) -> None:
        """Give the signals back to whom they belonged."""
        if self._given:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for signum, handler in self._given.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._given = {}

    def shield(self) -> None:
        """From here on the program must not be left: it is in the middle of a change."""
        self._shielded = True

    def unshield(self) -> None:
        """The change is done."""
        self._shielded = False

    def raise_if_expired(self) -> None:
        """Stop here, if the time of grace ended where that was not possible.

        Raises:
            Interrupted: it did.
        """
        if self.expired and self.requested is not None:
            raise Interrupted(self.requested)

    def _note(self, signum: int, frame: Any) -> None:
        if self.requested is not None:
            if signum == signal.SIGINT and not self._shielded:  # the user insists
                raise KeyboardInterrupt
            return
        self.requested = signum
        name = signal.Signals(signum).name
        # not print: the signal may have come in the middle of one
        os.write(2, f"\ngecko-lab: {name}: stopping at the end of this step, with a checkpoint\n".encode())
        if self._alarm:
            signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)

    def _expire(self, signum: int, frame: Any) -> None:
        self.expired = True
        if not self._shielded:
            self.raise_if_expired()
