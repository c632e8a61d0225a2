"""Where everything comes from: what did not finish, on what machines and commits, every single run."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from gecko_lab.reports.document import Cell, Section, Table, number, whole, words
from gecko_lab.reports.run_data import RunData
from gecko_lab.reports.study import Study
from gecko_lab.runs.metrics_file import METRICS_FILE

_LOG_LINES, _LOG_BYTES = 5, 4096
_OF_ENVIRONMENT = (
    "commit",
    "gecko_lab",
    "torch",
    "lightning",
    "python",
    "device",
    "devices",
    "precision",
    "threads",
    "system",
)


def failures_section(study: Study) -> Section:
    """The runs that are left out, with the reason."""
    rows = []
    for variant, run in study.runs:
        if run.problem:
            tail = _log_tail(run.folder) if run.state == "failed" else ""
            rows.append(
                [
                    words(variant.name),
                    whole(run.seed),
                    words(run.state),
                    words(f"{run.problem}{tail}"),
                    _folder(study, run),
                ]
            )
    rows += [
        [
            words("–"),
            whole(run.seed),
            words(run.state),
            words("another run has the same settings and seed"),
            _folder(study, run),
        ]
        for run in study.duplicates
    ]
    title = "What did not finish"
    if not rows:
        return Section("failures", title, ["Nothing: every run is finished and has a result."])
    columns = ["variant", "seed", "state", "reason", "run folder"]
    return Section(
        "failures", title, ["These runs are left out of the statistics."], [Table("failures", title, columns, rows)]
    )


def _log_tail(folder: Path) -> str:
    """The last lines of what the run printed, where its launcher kept that."""
    path = folder.with_name(f"{folder.name}.log.txt")
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _LOG_BYTES, 0))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "; its log ends: " + " / ".join(line.strip() for line in lines if line.strip())[-600:] if lines else ""


def environment_section(study: Study) -> Section:
    """Versions, machines and commits, and whether they differ."""
    known = [(variant, run) for variant, run in study.runs if run.environment]
    title = "Environment"
    if not known:
        return Section("environment", title, ["No run has written down its environment."])
    rows, differing = [], []
    for name in _OF_ENVIRONMENT:
        values: dict[str, list[str]] = defaultdict(list)
        for _, run in known:
            values[str(run.environment.get(name, "unknown"))].append(study.relative(run))
        if len(values) > 1:
            differing.append(name)
        for value, folders in values.items():
            which = (
                "all runs"
                if len(values) == 1
                else f"{len(folders)} runs: {', '.join(folders[:6])}{' …' if len(folders) > 6 else ''}"
            )
            rows.append([words(name), words(value, f"run.json of {', '.join(folders)}"), words(which)])
    hosts = sorted({str(start.get("host")) for _, run in known for start in run.record.get("starts", [])})
    rows.append([words("hosts"), words(", ".join(hosts)), words("all starts")])
    paragraphs = []
    if differing:
        paragraphs.append(
            f"Attention: the runs differ in {', '.join(differing)}. A difference between variants may come from that "
            "as well."
        )
    if any(str(run.environment.get("commit", "")).endswith("+") for _, run in known):
        paragraphs.append("A commit with + had changes that were not committed.")
    paragraphs += _data_note(study)
    return Section("environment", title, paragraphs, [Table("environment", title, ["what", "value", "where"], rows)])


def _data_note(study: Study) -> list[str]:
    """Whether the runs of one seed saw the same data."""
    by_seed: dict[int, set[str]] = defaultdict(set)
    for _, run in study.runs:
        if run.record.get("data"):
            by_seed[run.seed].add(str(run.record["data"]))
    bad = sorted(seed for seed, found in by_seed.items() if len(found) > 1)
    if not bad:
        return []
    return [
        f"Attention: the runs of seed {', '.join(map(str, bad))} saw different training data, so that they are not "
        "really paired."
    ]


def runs_section(study: Study) -> Section:
    """Every run: the rows that all means are made of."""
    metric = study.metric
    rows = []
    for variant, run in study.runs:
        folder = study.relative(run)
        source = f"{folder}/{METRICS_FILE}, column {metric}"
        link = f"{study.link(run)}/{METRICS_FILE}"
        progress = run.progress
        rows.append(
            [
                words(variant.name),
                whole(run.seed, f"{folder}/run.json"),
                words(run.state),
                whole(progress.get("step"), f"{folder}/run.json"),
                number(run.last(metric), f"last value of {source}", link, digits=7),
                number(run.best(metric, study.mode), f"best value ({study.mode}) of {source}", link, digits=7),
                words(str(run.record.get("identity", "–"))),
                _folder(study, run),
            ]
        )
    columns = ["variant", "seed", "state", "steps", f"final {metric}", f"best {metric}", "identity", "run folder"]
    note = "Every mean above is over the finished runs of a variant in this table."
    return Section("runs", "Runs", (), [Table("runs", "Every run", columns, rows, note=note, folded=len(rows) > 30)])


def _folder(study: Study, run: RunData) -> Cell:
    return words(study.relative(run), link=study.link(run))
