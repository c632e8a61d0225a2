"""One process at a time on a run's folder; the operating system releases the lock of a process that was killed."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from gecko_lab.errors import UserError

FILE_NAME = ".lock"


class RunLocked(UserError):
    """Another process works on the run."""


class RunLock:
    """The lock of a run's folder.

    A POSIX record lock: unlike `flock`, which libraries use, it is not inherited by loader processes, which outlive
    a trainer that was killed for some seconds.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunLocked: another process has it.
            OSError: the folder cannot be written.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(descriptor)
            os.close(descriptor)
            raise RunLocked(
                f"{self.path.parent} is being trained by another process "
                f"(process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}, since "
                f"{holder.get('since', 'an unknown time')}); wait for it, stop it, or name another folder with --run"
            ) from error
        os.ftruncate(descriptor, 0)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        os.pwrite(
            descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}).encode(), 0
        )
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(folder: Path) -> bool:
    """Whether another process works on the run. (The process itself does not see its own lock.)"""
    try:
        descriptor = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read(descriptor: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
