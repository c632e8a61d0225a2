"""What the report says, for TensorBoard: its tables as text, its pictures as images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tensorboard.compat.proto.summary_pb2 import Summary

from gecko_lab.dashboard.event_folder import tensor_summary
from gecko_lab.dashboard.images import image_summary
from gecko_lab.reports.document import Chapter, Figure, Report, Section
from gecko_lab.reports.markdown import as_markdown
from gecko_lab.reports.measurements import cost_section, positions_section, recall_section
from gecko_lab.reports.overview import budget_section, overview_section, settings_section
from gecko_lab.reports.provenance import failures_section
from gecko_lab.reports.results import effects_section, judge, results_section
from gecko_lab.reports.study import Study

_WRITTEN = "As far as it is now. All of it: gecko-lab report."


def report_summaries(study: Study) -> list[Summary.Value]:
    """Text and images of what is compared, as far as it is."""
    judged = judge(study)
    results, effects = results_section(study, judged), effects_section(study, judged)
    recall, positions = recall_section(study), positions_section(study)
    texts: dict[str, list[Section | None]] = {  # they stand in the order of their names
        "1_results": [overview_section(study), results, effects],
        "2_failures": [failures_section(study)],
        "3_budget": [settings_section(study), budget_section(study)],
        "4_measurements": [recall, cost_section(study)],
    }
    drawn = {"differences": results, "effects": effects, "loss_by_position": positions, "recall_by_distance": recall}
    return [
        *(tensor_summary(f"report/{tag}", "text", [_text(study, sections)]) for tag, sections in texts.items()),
        *(
            image_summary(tag, figure)
            for tag, section in drawn.items()
            if section is not None
            for figure in section.blocks
            if isinstance(figure, Figure)
        ),
    ]


def _text(study: Study, sections: Sequence[Section | None]) -> bytes:
    shown = [replace(section, blocks=section.tables) for section in sections if section is not None]
    chapter = Chapter(study.name, str(study.grid.get("question") or ""), shown)
    return as_markdown(Report(study.name, _WRITTEN, [chapter])).encode()
