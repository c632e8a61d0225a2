"""`gecko-lab report`."""

from __future__ import annotations

import json as json_format
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gecko_lab.errors import ConfigurationError, nearest

if TYPE_CHECKING:
    from gecko_lab.reports.study import Study

FORMATS = ("html", "md", "tex", "csv")


def report(
    *runs: str,
    output: str | None = None,
    formats: str = "html,md,tex,csv",
    metric: str | None = None,
    base: str | None = None,
    json: bool = False,
) -> None:
    """Compare runs and grids in one HTML file that needs nothing beside it, and in Markdown, LaTeX and CSV.

    Finished runs make the statistics: paired differences to the base with corrected intervals and verdicts in words.
    Runs that are not finished are shown as such, so that a grid can be looked at while it runs.

    Example: gecko-lab report runs/ablate_awm

    Args:
        runs: grids, run folders, or folders that hold them; runs of no grid are compared by the settings that differ.
        output: the HTML file or a folder; by default report.html in the grid's folder, or in that of all runs.
        formats: which files, with commas between.
        metric: what to compare by; by default what the grid says.
        base: name of the variant that the others are compared with; by default what the grid says.
        json: print every number with its source as JSON.
    """
    given = [name for name in runs if isinstance(name, str)]
    if not given:
        raise ConfigurationError("report: of what? Name grids, run folders, or folders that hold them")
    chosen = _formats(formats)
    # pandas, matplotlib and what the statistics need take a second to load
    from gecko_lab.reports.assembly import make_report
    from gecko_lab.reports.csv_rows import rows
    from gecko_lab.reports.study import read_studies

    with _progress() as tell:
        studies = read_studies([Path(name).expanduser() for name in given], base=base, metric=metric, tell=tell)
        place = _place(output, studies)
        for study in studies:
            study.report_folder = place.parent
        options = {"--metric": metric, "--base": base}
        flags = [word for flag, value in options.items() if value is not None for word in (flag, value)]
        folders = [Path(os.path.relpath(Path(name).expanduser(), place.parent)).as_posix() for name in given]
        command = shlex.join(["gecko-lab", "report", *folders, *flags])
        made = make_report(studies, command, tell)
        files = _write(made, place, chosen, tell)
    if json:
        numbers = [
            {**row, "value": row["value"] if row["value"] is None or math.isfinite(row["value"]) else str(row["value"])}
            for row in rows(made)
        ]
        print(json_format.dumps({"files": list(map(str, files)), "numbers": numbers}, indent=2, ensure_ascii=False))
        return
    for study, chapter in zip(studies, made.chapters, strict=True):
        counting = sum(run.counts for _, run in study.runs)
        total = len(list(study.runs))
        print(f"{study.name}: {len(study.variants)} variants, {counting} of {total} runs finished, by {study.metric}")
        results = next(section for section in chapter.sections if section.name == "results")
        for table in results.tables:
            if table.name == "differences":
                width = max(len(row[0].text) for row in table.rows)
                print("\n".join(f"  {row[0].text:<{width}}  {row[-1].text}" for row in table.rows))
    print("\n".join(f"report       {path}" for path in files))


def _formats(text: str) -> list[str]:
    chosen = [word.strip() for word in text.split(",") if word.strip()]
    for word in chosen:
        if word not in FORMATS:
            raise ConfigurationError(f"--formats: unknown format {word!r}{nearest(word, FORMATS)}")
    if not chosen:
        raise ConfigurationError(f"--formats: name at least one of {', '.join(FORMATS)}")
    return [name for name in FORMATS if name in chosen]


def _place(output: str | None, studies: Sequence[Study]) -> Path:
    """The path of the report without its ending."""
    if output is None:
        folder = Path(os.path.commonpath([study.folder.absolute() for study in studies]))
        below = folder.is_relative_to(Path.cwd())
        return (folder.relative_to(Path.cwd()) if below else folder) / "report"
    path = Path(output).expanduser()
    if path.is_dir() or output.endswith(os.sep):
        return path / "report"
    return path.with_suffix("") if path.suffix.removeprefix(".") in FORMATS else path


def _write(made: object, place: Path, formats: Sequence[str], tell: Callable[[str], None]) -> list[Path]:
    """Make all files, then write them, each whole or not at all."""
    from gecko_lab.reports.csv_rows import as_csv
    from gecko_lab.reports.html import as_html
    from gecko_lab.reports.latex import as_latex
    from gecko_lab.reports.markdown import as_markdown
    from gecko_lab.runs.files import written_whole

    tell("writing")
    makers: dict[str, Callable[..., str]] = {"html": as_html, "md": as_markdown, "tex": as_latex, "csv": as_csv}
    texts = {place.with_name(f"{place.name}.{name}"): makers[name](made) for name in formats}
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with written_whole(path) as file:
                file.write(text.encode("utf-8", errors="replace").decode("utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"--output: {place.parent} cannot be written ({error.strerror}); name another"
        ) from error
    return list(texts)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is being done, in one line of a terminal; nothing where there is none."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("reading") as status:
        yield lambda text: status.update(escape(text))
