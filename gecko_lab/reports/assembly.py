"""A report of studies: its chapters and sections in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import gecko_lab
from gecko_lab.reports.curves import curves_section
from gecko_lab.reports.document import Chapter, Report, Section
from gecko_lab.reports.measurements import cost_section, positions_section, recall_section
from gecko_lab.reports.overview import budget_section, overview_section, reproduce_section, settings_section
from gecko_lab.reports.provenance import environment_section, failures_section, runs_section
from gecko_lab.reports.results import effects_section, judge, results_section
from gecko_lab.reports.study import Study


def make_report(studies: Sequence[Study], command: str, tell: Callable[[str], None]) -> Report:
    """The report of studies.

    Args:
        studies: at least one.
        command: that makes this report again.
        tell: is told what is being made.
    """
    chapters = []
    for study in studies:
        tell(f"comparing {study.name}")
        chapters.append(Chapter(study.name, str(study.grid.get("question") or ""), _sections(study, command, tell)))
    names = " and ".join(study.name for study in studies)
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return Report(f"Report: {names}", f"Written {written} by gecko-lab {gecko_lab.__version__}.", chapters)


def _sections(study: Study, command: str, tell: Callable[[str], None]) -> list[Section]:
    judged = judge(study)
    first = [overview_section(study), results_section(study, judged), effects_section(study, judged)]
    second = [settings_section(study), budget_section(study)]
    tell(f"drawing {study.name}")
    third = [curves_section(study), recall_section(study), positions_section(study), cost_section(study)]
    last = [failures_section(study), environment_section(study), runs_section(study), reproduce_section(study, command)]
    return [section for section in (*first, *second, *third, *last) if section is not None]
