"""A report as CSV: one row for each cell of each table, with its full value and where it comes from."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from gecko_lab.reports.document import Report

COLUMNS = ("study", "section", "table", "row", "column", "text", "value", "source")


def as_csv(report: Report) -> str:
    """The rows, their columns `COLUMNS`; `value` is empty for words."""
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "value": "" if row["value"] is None else repr(row["value"])} for row in rows(report))
    return file.getvalue()


def rows(report: Report) -> Iterator[dict[str, Any]]:
    """Each cell but those that name a row, as plain values."""
    for chapter in report.chapters:
        for section in chapter.sections:
            for table in section.tables:
                for row in table.rows:
                    for column, cell in zip(table.columns[1:], row[1:], strict=True):
                        yield {
                            "study": chapter.name,
                            "section": section.name,
                            "table": table.name,
                            "row": row[0].text,
                            "column": column,
                            "text": cell.text,
                            "value": cell.value,
                            "source": cell.source,
                        }
