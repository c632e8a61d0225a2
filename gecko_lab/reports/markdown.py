"""A report as Markdown: the tables and sentences, without the pictures."""

from __future__ import annotations

import re

from gecko_lab.reports.document import Figure, Report, Section, Table

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~$&])")


def as_markdown(report: Report) -> str:
    """The whole report, in GitHub's dialect."""
    lines = [f"# {escaped(report.title)}", "", escaped(report.written), ""]
    for chapter in report.chapters:
        if len(report.chapters) > 1:
            lines += [f"## {escaped(chapter.name)}", ""]
        if chapter.question:
            lines += [escaped(chapter.question), ""]
        for section in chapter.sections:
            lines += _section(section)
    return "\n".join(lines).rstrip() + "\n"


def _section(section: Section) -> list[str]:
    lines = [f"### {escaped(section.title)}", ""]
    for paragraph in section.paragraphs:
        lines += [escaped(paragraph), ""]
    for block in section.blocks:
        lines += (
            [f"Figure, in the HTML file: {escaped(block.title)}.", ""] if isinstance(block, Figure) else _table(block)
        )
    if section.commands:
        lines += ["```sh", *(" ".join(command.splitlines()) for command in section.commands), "```", ""]
    return lines


def _table(table: Table) -> list[str]:
    lines = [f"**{escaped(table.title)}**", "", _row(list(table.columns))]
    lines.append("|" + "|".join("---:" if table.is_number(i) else "---" for i in range(len(table.columns))) + "|")
    lines += [_row([cell.text for cell in row]) for row in table.rows]
    lines.append("")
    return [*lines, escaped(table.note), ""] if table.note else lines


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(escaped(text) for text in texts) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
