"""Runs as they go on, shown as they go on."""

from __future__ import annotations

import time
from pathlib import Path

from gecko_lab.dashboard.board import MOST_RUNS, Board, Seeds
from gecko_lab.dashboard.members import members_of, one_study, read_members
from gecko_lab.grids.record import FILE_NAME as GRID_FILE

_SHARE = 0.05  # of the time that report tables and pictures may take


class Watcher:
    """Keeps a folder for TensorBoard up with a grid.

    Args:
        path: of the grid, or of the folder that holds runs.
        place: that is written.
        seeds: see `Board`.
    """

    def __init__(self, path: Path, place: Path, *, seeds: Seeds) -> None:
        self._path = path
        self._members = read_members(path)
        self._board = Board(place, seeds=seeds)
        self._grid = self._grid_seen()
        self._report_is_old = True
        self._report_after = 0.0

    def look(self) -> None:
        """Show what is new of the curves.

        Raises:
            ConfigurationError: the grid cannot be read any more.
            OSError: a folder cannot be read or written.
        """
        seen = self._grid_seen()
        if seen != self._grid:
            self._members = read_members(self._path)
            self._grid = seen
        if self._board.update(self._members):
            self._report_is_old = True

    def report(self) -> None:
        """Show tables, verdicts and pictures of what is there; the errors are those of `look`."""
        from gecko_lab.dashboard.report_part import report_summaries  # loads what statistics and pictures need

        begin = time.monotonic()
        study = one_study(self._path)
        self._members = members_of(study)
        self._board.show_report(self._members, report_summaries(study))
        self._report_is_old = False
        end = time.monotonic()
        self._report_after = end + (end - begin) / _SHARE

    def report_if_due(self) -> None:
        """`report`, where something has changed, and not so often that it would slow down what it looks at."""
        # without a grid nothing else finds runs that are new
        if (self._report_is_old or self._grid is None) and time.monotonic() >= self._report_after:
            self.report()

    def notes(self) -> list[str]:
        """What a user may miss on the page, and where it is."""
        notes = []
        if not self._board.shows_seeds:
            notes.append("single runs  are left out, as so many make TensorBoard slow; --seeds show has them")
        if self._board.num_runs() > MOST_RUNS:
            notes.append("check boxes  TensorBoard begins with none checked of so many: press TOGGLE ALL RUNS")
        return notes

    def _grid_seen(self) -> tuple[int, int] | None:
        try:
            status = (self._members.folder / GRID_FILE).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns
