"""A launcher that trains in this process: nothing is imported anew."""

from gecko_lab.__main__ import main
from gecko_lab.grids.launcher import Job


class InProcess:
    """Runs each job as it is started; its output is this process's."""

    slots = 1

    def __init__(self) -> None:
        self._ended: list[tuple[Job, int]] = []

    def start(self, job: Job) -> None:
        job.log.parent.mkdir(parents=True, exist_ok=True)
        job.log.touch()
        self._ended.append((job, main(list(job.words))))

    def ended(self) -> list[tuple[Job, int]]:
        ended, self._ended = self._ended, []
        return ended

    def stop(self) -> None:
        """Nothing runs."""

    def kill(self) -> None:
        """Nothing runs."""
