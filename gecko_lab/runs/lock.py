"""One process at a time on a run's folder; the operating system releases the lock of a process that was killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from gecko_lab.errors import UserError

FILE_NAME = ".lock"
_BUSY = (errno.EACCES, errno.EAGAIN)
# Lock files that this process holds, and its id: such a lock neither stops the process that has it nor survives that
# the process opens and closes the file once more.
_held: dict[Path, int] = {}


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
        self.path = folder.absolute() / FILE_NAME
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            RunLocked: another process has it.
            OSError: the folder cannot be written.
        """
        if _holds(self.path):
            raise RunLocked(f"{self.path.parent} is being trained by this process already")
        descriptor = self._open_locked()
        self._descriptor = descriptor
        _held[self.path.resolve()] = os.getpid()
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)

    def _open_locked(self) -> int:
        """The descriptor of the lock file, once it is ours."""
        while True:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(self.path, descriptor):
                    return descriptor
                os.close(descriptor)  # whoever had the lock removed the folder as he let go
            except OSError as error:
                holder = _read(descriptor)
                os.close(descriptor)
                if error.errno not in _BUSY:
                    raise
                raise RunLocked(
                    f"{self.path.parent} is being trained by another process "
                    f"(process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}, since "
                    f"{holder.get('since', 'an unknown time')}); wait for it, stop it, or name another folder with "
                    "--run"
                ) from error

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
            _held.pop(self.path.resolve(), None)


def is_locked(folder: Path) -> bool:
    """Whether a process works on the run."""
    if _holds(folder / FILE_NAME):
        return True
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


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holds(path: Path) -> bool:
    return _held.get(path.resolve()) == os.getpid()


def _read(descriptor: int) -> dict[str, Any]:
    try:
        content = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
