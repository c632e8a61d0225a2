"""A report's tables in LaTeX, a document that compiles as it is and from which tables can be taken."""

from __future__ import annotations

import re

from gecko_lab.reports.document import Report, Table

_PREAMBLE = r"""\documentclass[a4paper,9pt]{extarticle}
\usepackage[landscape,margin=15mm]{geometry}
\usepackage{booktabs,longtable,array,textcomp}
\usepackage[T1]{fontenc}
\begin{document}
\small\setlength{\tabcolsep}{4pt}
"""
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\ldots{}",
    "√": r"$\surd$",
    "σ": r"$\sigma$",
    "²": r"$^2$",
    "↔": r"$\leftrightarrow$",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
} | {exponent: f"$^{{{digit}}}$" for exponent, digit in zip("⁻⁰¹³⁴⁵⁶⁷⁸⁹", "-013456789", strict=True)}
_SPECIAL_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))
_LONGEST_LINE = 30  # characters of a column that is not broken


def as_latex(report: Report) -> str:
    """A document with every table of the report."""
    parts = [_PREAMBLE, f"\\section*{{{escaped(report.title)}}}\n{escaped(report.written)}\n"]
    for chapter in report.chapters:
        if len(report.chapters) > 1:
            parts.append(f"\\section*{{{escaped(chapter.name)}}}\n")
        if chapter.question:
            parts.append(f"{escaped(chapter.question)}\n")
        for section in chapter.sections:
            if section.paragraphs or section.tables:
                parts.append(f"\\subsection*{{{escaped(section.title)}}}\n")
            parts += [f"{escaped(paragraph)}\n\n" for paragraph in section.paragraphs]
            parts += [_table(table) for table in section.tables]
    return "".join([*parts, "\\end{document}\n"])


def _table(table: Table) -> str:
    columns = []
    for i, head in enumerate(table.columns):
        longest = max(len(text) for text in (head, *(row[i].text for row in table.rows)))
        columns.append(
            "r" if table.is_number(i) else "l" if longest <= _LONGEST_LINE else r">{\raggedright\arraybackslash}p{55mm}"
        )
    lines = [
        f"\\begin{{longtable}}{{{''.join(columns)}}}",
        rf"\multicolumn{{{len(columns)}}}{{l}}{{{escaped(table.title)}}} \\",
        "\\toprule",
        " & ".join(escaped(column) for column in table.columns) + r" \\",
        "\\midrule",
        "\\endhead",
        *(" & ".join(escaped(cell.text) for cell in row) + r" \\" for row in table.rows),
        "\\bottomrule",
        "\\end{longtable}",
    ]
    return "\n".join(lines) + "\n" + (f"{escaped(table.note)}\n\n" if table.note else "")


def escaped(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return _SPECIAL_PATTERN.sub(lambda match: _SPECIAL[match[0]], " ".join(text.split()))
