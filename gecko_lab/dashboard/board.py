"""The folder that TensorBoard shows: built from run folders, and kept up with them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tensorboard.compat.proto.summary_pb2 import Summary

from gecko_lab.dashboard.aggregate import Band, bands
from gecko_lab.dashboard.contents import Resolution, against_tokens, run_content, variant_content
from gecko_lab.dashboard.curves import RunCurves
from gecko_lab.dashboard.event_folder import Content, write_events
from gecko_lab.dashboard.hparams import experiment_summary
from gecko_lab.dashboard.layout import BY_TOKENS, layout_summary
from gecko_lab.dashboard.members import Member, Members
from gecko_lab.errors import ConfigurationError
from gecko_lab.runs.record_file import read_record

Seeds = Literal["auto", "show", "hide"]

MOST_RUNS = 40
"""TensorBoard begins with nothing selected where there are more runs than that."""
SEEDS_FOLDER, REPORT_FOLDER = "seeds", "report"
_UNSAFE = re.compile(r"[\x00-\x1f/\\]")


@dataclass
class _Shown:
    """A variant and what has been read of it."""

    member: Member
    name: str  # of its folder
    runs: dict[int, RunCurves]
    bands: dict[str, Band] = field(default_factory=dict)
    finished: frozenset[int] | None = None  # seeds; none before anything was read

    def update(self) -> bool:
        """Read what is new; whether anything was."""
        grown = [run.update() for run in self.runs.values()]
        finished = frozenset(seed for seed, folder in self.member.runs.items() if _is_finished(folder))
        if not any(grown) and finished == self.finished:
            return False
        self.bands = bands([run for run in self.runs.values() if run.curves])
        self.finished = finished
        return True


class Board:
    """A folder of event files, made from what the runs of a grid have logged.

    It holds one run of TensorBoard's for each variant, with mean and interval over its seeds; `seeds/VARIANT/seed-N`
    for each run, unless that makes too many; and `report` with layout, columns of the table, pictures and text.

    Args:
        folder: that is written.
        seeds: whether single runs are shown; `auto`: where there are no more than `MOST_RUNS` in all.

    Attributes:
        shows_seeds: whether they are.
    """

    def __init__(self, folder: Path, *, seeds: Seeds) -> None:
        self.folder = folder
        self.shows_seeds = seeds == "show"
        self._undecided = seeds == "auto"
        self._shown: dict[str, _Shown] = {}
        self._resolution: Resolution | None = None
        self._report: list[Summary.Value] = []
        self._head: list[Summary.Value] | None = None

    def update(self, members: Members) -> bool:
        """Read what is new and write what changes by it; whether anything did."""
        if self._undecided:
            self.shows_seeds = 1 + sum(1 + len(member.runs) for member in members.variants) <= MOST_RUNS
            self._undecided = False
        self._take(members.variants)
        changed = [shown for shown in self._shown.values() if shown.update()]
        resolution = Resolution.fitting(
            (shown.bands, len(shown.runs) if self.shows_seeds else 0) for shown in self._shown.values()
        )
        if resolution != self._resolution:
            self._resolution, changed = resolution, list(self._shown.values())
        for shown in changed:
            self._write(shown, resolution, members.metric)
        return self._write_head(members) or bool(changed)

    def num_runs(self) -> int:
        """Runs of TensorBoard's."""
        return 1 + sum(1 + self.shows_seeds * len(shown.runs) for shown in self._shown.values())

    def show_report(self, members: Members, summaries: Sequence[Summary.Value]) -> None:
        """Show pictures and text."""
        self._report = list(summaries)
        self._write_head(members)

    def _take(self, members: Sequence[Member]) -> None:
        """Show these variants; what was read of them before is kept."""
        known, self._shown = self._shown, {}
        taken = {SEEDS_FOLDER, REPORT_FOLDER}
        for member in members:
            name = _free_name(member.name, taken)
            taken.add(name)
            shown = known.get(member.name)
            if shown is None or shown.member != member or shown.name != name:
                runs = {seed: RunCurves(folder, member.steps) for seed, folder in member.runs.items()}
                shown = _Shown(member, name, runs)
            self._shown[member.name] = shown
        for gone in {shown.name for shown in known.values()} - taken:
            for folder in (self.folder / gone, self.folder / SEEDS_FOLDER / gone):
                shutil.rmtree(folder, ignore_errors=True)

    def _write(self, shown: _Shown, resolution: Resolution, metric: str) -> None:
        finished = shown.finished or frozenset()
        content = variant_content(
            shown.member,
            shown.bands,
            resolution,
            metric=metric,
            finished=finished == shown.runs.keys(),
        )
        write_events(self.folder / shown.name, content)
        if self.shows_seeds:
            for seed, run in shown.runs.items():
                single = run_content(shown.member, seed, run, resolution, metric=metric, finished=seed in finished)
                write_events(self.folder / SEEDS_FOLDER / shown.name / f"seed-{seed}", single)

    def _write_head(self, members: Members) -> bool:
        """Layout, columns, pictures and text; whether anything of it is new."""
        tags = {tag for shown in self._shown.values() for tag in shown.bands}
        if any("tokens_per_step" in member.cost for member in members.variants):
            tags |= {BY_TOKENS + tag for tag in against_tokens(members.metric) & tags}
        columns = experiment_summary(
            axes=members.axes,
            variants=[member.name for member in members.variants],
            seeds=members.seeds if self.shows_seeds else (),
            metric=members.metric,
        )
        head = [layout_summary(tags), columns, *self._report]
        if head == self._head:
            return False
        self._head = head
        write_events(self.folder / REPORT_FOLDER, Content(summaries=head))
        return True


def _is_finished(folder: Path) -> bool:
    try:
        return (read_record(folder) or {}).get("state") == "finished"
    except ConfigurationError:  # damaged, which the text tells
        return False


def _free_name(name: str, taken: set[str]) -> str:
    """The name as that of a folder, different from those that are taken."""
    safe = _UNSAFE.sub("-", name).lstrip(".") or "variant"
    candidates = (safe, *(f"{safe}-{number}" for number in range(2, len(taken) + 3)))
    return next(candidate for candidate in candidates if candidate not in taken)
