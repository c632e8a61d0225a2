"""Runs as processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import IO

from gecko_lab.grids.launcher import Job, Launcher


class LocalLauncher(Launcher):
    """Processes of this machine, which end when this process does.

    Must be used by the main thread: Linux ties a process to the thread that has started it.

    Args:
        jobs: how many at once.
        gpus: what `CUDA_VISIBLE_DEVICES` says in each of them; empty leaves it as it is.
    """

    def __init__(self, jobs: int, gpus: list[str] | None = None) -> None:
        self._slots: list[str | None] = list(gpus[:jobs]) if gpus else [None] * jobs
        self._running: dict[int, tuple[Job, subprocess.Popen[bytes], IO[bytes]]] = {}
        self.threads = max(1, len(os.sched_getaffinity(0)) // jobs)

    @property
    def slots(self) -> int:
        """Jobs at once."""
        return len(self._slots)

    def start(self, jobs: Sequence[Job]) -> None:
        """Start each in a free slot."""
        for job in jobs:
            self._start(job)

    def ended(self) -> list[tuple[Job, int | None]]:
        """The jobs that have ended since the last call."""
        ended: list[tuple[Job, int | None]] = []
        for slot, (job, process, log) in list(self._running.items()):
            code = process.poll()
            if code is not None:
                log.close()
                del self._running[slot]
                ended.append((job, code))
        return ended

    def stop(self) -> None:
        """SIGTERM."""
        for _, process, _ in self._running.values():
            process.terminate()

    def kill(self) -> None:
        """SIGKILL, to the processes and to those that they have started."""
        for _, process, log in self._running.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.close()

    def _start(self, job: Job) -> None:
        """Start a process; its own session keeps the terminal's Ctrl-C from it."""
        slot = next(slot for slot in range(self.slots) if slot not in self._running)
        environment = {"OMP_NUM_THREADS": str(self.threads)} | os.environ | {"PYTHONUNBUFFERED": "1"}
        gpu = self._slots[slot]
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = gpu
        job.log.parent.mkdir(parents=True, exist_ok=True)
        log = job.log.open("ab")
        command = [sys.executable, "-m", "gecko_lab.grids.child", str(os.getpid()), *job.words]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        self._running[slot] = (job, process, log)


def visible_gpus(per_run: int = 1) -> list[str]:
    """The GPUs of this machine in groups of what a run needs, as `CUDA_VISIBLE_DEVICES` names them."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = given.split(",")[:count] if given is not None else [str(number) for number in range(count)]
    return [",".join(names[i : i + per_run]) for i in range(0, len(names) - per_run + 1, per_run)]
