"""Runs as jobs of a SLURM cluster, submitted as arrays through submitit."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from gecko_lab.errors import ConfigurationError
from gecko_lab.grids.launcher import Job, Launcher
from gecko_lab.grids.slurm_job import SlurmTraining
from gecko_lab.grids.slurm_options import SlurmOptions
from gecko_lab.runs.files import write_json
from gecko_lab.runs.record_file import written_step

FOLDER = "slurm"
JOBS_FILE = "jobs.json"
_LOOK_SECONDS = 5.0
_ARRAY_SIZE = 1000  # SLURM's default limit
_ENDLESS = 10**9
_QUEUED = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "CONFIGURING")


class SlurmLauncher(Launcher):
    """Jobs of a cluster, which outlive this process: another one that is given the same folder goes on with them.

    Args:
        folder: of the grid, on a file system that the cluster's nodes share; what submitit writes and the numbers of
            the jobs are in its folder `slurm`.
        name: of the jobs.
        options: what each job asks for.
        trainer: settings of the runs: nodes, devices, accelerator.
        jobs: how many of an array may run at once; none: as many as the cluster lets.

    Raises:
        ConfigurationError: there is no SLURM here, submitit is not installed, or an option cannot be.
    """

    def __init__(
        self, folder: Path, name: str, options: SlurmOptions, trainer: Mapping[str, Any], jobs: int | None = None
    ) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigurationError("--launcher slurm: there is no sbatch here; start it on a cluster's login node")
        try:
            import submitit
        except ImportError:
            raise ConfigurationError(
                "--launcher slurm needs submitit: pip install 'gecko-lab[slurm]', or pip install submitit"
            ) from None
        self._folder = folder.resolve() / FOLDER
        self._minutes = options.time
        parameters = options.parameters(trainer) | {"job_name": name, "array_parallelism": jobs or _ARRAY_SIZE}
        self._executor = submitit.SlurmExecutor(self._folder, max_num_timeout=_ENDLESS)
        self._executor.update_parameters(**parameters)
        self._jobs: dict[str, tuple[str, Job]] = {}  # by name: number and job of what is under way
        self._states: dict[str, str] = {}  # by number, as SLURM said last
        self._missed: set[str] = set()  # numbers that SLURM did not name when it was asked last
        self._looked = -_LOOK_SECONDS
        self._log_sizes: dict[str, int] = {}

    @property
    def slots(self) -> int:
        """SLURM's queue takes all."""
        return _ENDLESS

    def shared_folder(self) -> Path:
        """In the grid's folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def adopt(self, jobs: Sequence[Job]) -> list[Job]:
        """Those that an earlier process has submitted and that are queued or running.

        Raises:
            ConfigurationError: SLURM does not say which are.
        """
        known = self._known_numbers()
        if known and not self._look():
            raise ConfigurationError("squeue does not answer, so that nobody knows which runs are queued; try again")
        found = [job for job in jobs if known.get(job.name) in self._states]
        for job in found:
            self._take(job, known[job.name])
        return found

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit an array of jobs, or several where it would be too long.

        Raises:
            ConfigurationError: SLURM does not take them; with what it says.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        for i in range(0, len(jobs), _ARRAY_SIZE):
            part = jobs[i : i + _ARRAY_SIZE]
            trainings = [self._training(job) for job in part]
            try:
                with redirect_stderr(StringIO()), self._executor.batch():
                    submitted = [self._executor.submit(training) for training in trainings]
            except (FailedJobError, FailedSubmissionError) as error:
                said = [line for line in str(error.__cause__ or error).splitlines() if "error:" in line]
                said = said or [line for line in str(error).splitlines() if line.strip()][-1:]
                raise ConfigurationError(f"sbatch refused the jobs: {' '.join(said)}") from error
            for job, one in zip(part, submitted, strict=True):
                self._take(job, one.job_id)
            self._remember()

    def queued(self) -> set[str]:
        """Those that wait for their turn."""
        return {
            name
            for name, (number, _) in self._jobs.items()
            if number not in self._missed and self._states.get(number, "PENDING") in _QUEUED
        }

    def ended(self) -> list[tuple[Job, int | None]]:
        """The jobs that SLURM no longer names, when asked twice."""
        if not self._jobs or time.monotonic() - self._looked < _LOOK_SECONDS or not self._look():
            return []
        gone = {number for number, _ in self._jobs.values() if number not in self._states}
        names = [name for name, (number, _) in self._jobs.items() if number in gone & self._missed]
        self._missed = gone
        ended: list[tuple[Job, int | None]] = []
        for name in names:
            number, job = self._jobs.pop(name)
            self._explain(job, number)
            ended.append((job, None))
        if ended:
            self._remember()
        return ended

    def stop(self) -> None:
        """Take the queued ones out of the queue, and SIGTERM to the others."""
        self._look()
        queued = self.queued()
        waiting = [number for name, (number, _) in self._jobs.items() if name in queued]
        running = [number for name, (number, _) in self._jobs.items() if name not in queued]
        _cancel(*waiting)
        _cancel(*running, signal="TERM")

    def kill(self) -> None:
        """Cancel all."""
        _cancel(*(number for number, _ in self._jobs.values()))

    def close(self) -> None:
        """Leave the jobs to the cluster; they are remembered."""

    def numbers(self) -> dict[str, str]:
        """SLURM's numbers of the jobs that are under way, by their names."""
        return {name: number for name, (number, _) in self._jobs.items()}

    def _training(self, job: Job) -> SlurmTraining:
        folder = Path(job.words[job.words.index("--run") + 1]).absolute()
        return SlurmTraining(job.words, str(folder), str(job.log.absolute()), self._minutes, written_step(folder))

    def _take(self, job: Job, number: str) -> None:
        self._jobs[job.name] = (number, job)
        self._log_sizes[job.name] = _size(job.log)

    def _look(self) -> bool:
        """Ask SLURM for the states of the user's jobs; whether it answered."""
        command = ["squeue", "--me", "--array", "--noheader", "--format=%i|%T"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        self._looked = time.monotonic()
        if answer.returncode != 0:  # a controller that is busy is no sign that the jobs have ended
            return False
        rows = (line.strip().split("|") for line in answer.stdout.splitlines() if "|" in line)
        self._states = dict(row for row in rows if len(row) == 2)
        return True

    def _explain(self, job: Job, number: str) -> None:
        """Let the run's log say why a job ended that has not printed anything, as where it did not even begin."""
        from submitit.core.utils import JobPaths

        if _size(job.log) > self._log_sizes.pop(job.name):
            return
        output = JobPaths(self._folder, job_id=number, task_id=0).stderr
        text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        with job.log.open("a", encoding="utf-8") as log:
            log.write(f"{text.rstrip()}\nSLURM's job {number} ended before the run began: {_fate(number)}\n".lstrip())

    def _known_numbers(self) -> dict[str, str]:
        try:
            known = json.loads((self._folder / JOBS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return {str(name): str(number) for name, number in known.items()} if isinstance(known, dict) else {}

    def _remember(self) -> None:
        write_json(self._folder / JOBS_FILE, self.numbers())


def _cancel(*numbers: str, signal: str | None = None) -> None:
    if numbers:
        how = [] if signal is None else [f"--signal={signal}"]
        subprocess.run(["scancel", "--quiet", *how, *numbers], capture_output=True, check=False)


def _fate(number: str) -> str:
    """How a job that is not queued any more ended, as far as SLURM remembers."""
    answer = subprocess.run(["scontrol", "show", "job", "-o", number], capture_output=True, text=True, check=False)
    told = dict(word.split("=", 1) for word in answer.stdout.split() if "=" in word)
    known = [f"{name} {told[name]}" for name in ("JobState", "Reason", "ExitCode") if name in told]
    return ", ".join(known) or f"`sacct -j {number}` may know why"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
