"""What trains the runs of a grid: on this machine, or on a cluster."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """A command to be run.

    Attributes:
        name: in messages; no two jobs of a launcher share one.
        words: the arguments of `gecko-lab`.
        log: the file that its output is added to.
    """

    name: str
    words: tuple[str, ...]
    log: Path


class Launcher(ABC):
    """Runs jobs somewhere."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many jobs it takes at once."""

    @abstractmethod
    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs, at most `slots` of them with those that are under way."""

    @abstractmethod
    def ended(self) -> list[tuple[Job, int | None]]:
        """The jobs that have ended since the last call, with their exit codes where known; a signal's is negative."""

    @abstractmethod
    def stop(self) -> None:
        """Ask all jobs to stop with a checkpoint."""

    @abstractmethod
    def kill(self) -> None:
        """End all jobs at once."""

    def close(self) -> None:
        """This process goes: end the jobs that cannot be without it."""
        self.kill()

    def adopt(self, jobs: Sequence[Job]) -> list[Job]:
        """Those of these jobs that an earlier process has started and that are still under way; they are ours now."""
        return []

    def queued(self) -> set[str]:
        """The names of jobs that were started and wait for a machine."""
        return set()

    def shared_folder(self) -> Path | None:
        """A folder that this process and the jobs both see; none where any of this machine will do."""
        return None
