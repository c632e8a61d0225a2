"""What was compared: the question, the settings that differ, what each variant may spend, how to do it again."""

from __future__ import annotations

import shlex
from collections import Counter
from typing import Any

import yaml

from gecko_lab.grids.budget import TRAINING_FACTOR
from gecko_lab.reports.curves import cost_of
from gecko_lab.reports.document import Cell, Section, Table, scaled, whole, words
from gecko_lab.reports.study import Study, Variant, differing_keys

_LONGEST_VALUE = 80
_MATCHED = {"parameters": "parameters", "flops": "FLOPs per token", "state": "bytes of state"}


def overview_section(study: Study) -> Section:
    """What was compared, and how far it is."""
    grid = study.grid
    states = Counter(
        "finished without a result" if run.state == "finished" and run.problem else run.state for _, run in study.runs
    )
    total = sum(states.values())
    told = ", ".join(f"{count} {state}" for state, count in states.most_common())
    seeds = sorted({run.seed for _, run in study.runs})
    facts = [
        ("variants", str(len(study.variants))),
        ("base", study.base),
        ("seeds", ", ".join(map(str, seeds))),
        ("compared by", f"{study.metric}, {'less' if study.mode == 'min' else 'more'} is better"),
        ("runs", f"{total}: {told}"),
    ]
    if grid:
        axes = "; ".join(f"{axis}: {', '.join(map(str, levels))}" for axis, levels in grid["axes"].items())
        match = _MATCHED.get(str(grid.get("match")), "nothing")
        facts[1:1] = [("axes", axes), ("design", str(grid.get("design", "unknown")).replace("_", " "))]
        facts += [("budget of a run", str(grid.get("budget") or "as configured")), ("matched in", match)]
    table = Table(
        "facts", "What was compared", ["what", "in this report"], [[words(name), words(text)] for name, text in facts]
    )
    paragraphs = []
    unfinished = sum(run.state in ("running", "missing", "interrupted") for _, run in study.runs)
    if unfinished:
        paragraphs.append(
            f"This is not the end: {unfinished} of {total} runs are not finished. They are left out of the statistics."
        )
    return Section("overview", "What was compared", paragraphs, [table])


def settings_section(study: Study) -> Section:
    """The settings in which variants differ."""
    known = [variant for variant in study.variants if variant.settings is not None]
    settings = {variant.name: variant.settings or {} for variant in known}
    source = "config.yaml"
    if len(known) < len(study.variants):  # not all have begun
        settings = {variant.name: dict(variant.overrides) for variant in study.variants}
        source = "grid.json"
    keys = differing_keys(list(settings.values()))
    title = "Settings that differ"
    if not keys:
        return Section("settings", title, ["The settings of all runs are the same but for the seeds."])
    rows = [
        [words(name), *(words(_setting(of, key), f"{source} of {name}") for key in keys)]
        for name, of in settings.items()
    ]
    note = f"From {source}; every other setting that changes the result is the same in all variants."
    if source == "grid.json":
        note = "From grid.json, because not every variant has begun: what each level sets. A dash: as in the base."
    return Section("settings", title, (), [Table("settings", title, ["variant", *keys], rows, note=note)])


def _setting(settings: dict[str, Any], key: str) -> str:
    if key not in settings:
        return "–"
    text = yaml.safe_dump(settings[key], default_flow_style=True, width=float("inf"), allow_unicode=True)
    text = text.removesuffix("\n").removesuffix("...").strip()
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def budget_section(study: Study) -> Section:
    """What each variant costs, beside the base."""
    base = study.variant(study.base)
    rows = []
    for variant in study.variants:
        source = f"grid.json, cost of {variant.name}" if variant.cost and study.grid else f"run.json of {variant.name}"
        steps, per_step = _steps(variant), cost_of(variant, "tokens_per_step")
        tokens = None if steps is None or per_step is None else steps * per_step
        per_token = cost_of(variant, "flops_per_token")
        flops = None if tokens is None or per_token is None else TRAINING_FACTOR * per_token * tokens
        rows.append(
            [
                words(f"{variant.name} (base)" if variant is base else variant.name),
                whole(cost_of(variant, "parameters"), source),
                _beside(variant, base, "parameters", source),
                scaled(per_token, "", source),
                _beside(variant, base, "flops_per_token", source),
                scaled(cost_of(variant, "state_bytes"), "B", source),
                _beside(variant, base, "state_bytes", source),
                whole(steps, source),
                scaled(tokens, "", source),
                scaled(flops, "", source),
            ]
        )
    columns = ["variant", "parameters", "to base", "FLOPs per token", "to base", "state of a stream", "to base"]
    matched = _MATCHED.get(str(study.grid.get("match"))) if study.grid else None
    note = "FLOPs per token: forward pass. FLOPs of training: three times that for each token. "
    note += f"Widths were solved so that all variants agree in {matched}." if matched else "Nothing was matched."
    table = Table("budget", "Budget of a run", [*columns, "steps", "tokens", "FLOPs of training"], rows, note=note)
    return Section("budget", "Budget", (), [table])


def _steps(variant: Variant) -> int | None:
    if variant.steps is not None:
        return variant.steps
    found = [run.progress["steps"] for run in variant.runs if "steps" in run.progress]
    return int(found[0]) if found else None


def _beside(variant: Variant, base: Variant, name: str, source: str) -> Cell:
    own, other = cost_of(variant, name), cost_of(base, name)
    if own is None or not other:
        return Cell("–")
    share = own / other - 1
    return Cell(f"{100 * share:+.2f} %".replace("-", "−"), share, source)


def reproduce_section(study: Study, command: str) -> Section:
    """What to type in to have the same again."""
    commits = {str(run.environment.get("commit")) for _, run in study.runs if run.environment.get("commit")}
    commands = []
    if len(commits) == 1:
        commit = commits.pop()
        commands.append(
            f"git checkout {commit.rstrip('+')}"
            + ("   # and changes that were not committed" if commit[-1] == "+" else "")
        )
    if study.grid:
        commands.append(f"gecko-lab grid {shlex.quote(str(study.grid.get('config', study.name)))}")
    for variant in study.variants:
        run = next((run for run in variant.runs if run.tree), None)
        if run is not None:
            path = shlex.quote(f"{study.link(run)}/config.yaml")
            name = shlex.quote(f"again/{study.relative(run).strip('./')}")
            commands.append(f"gecko-lab fit --config {path} --run {name}")
    commands.append(command)
    paragraphs = ["In the folder of this report, one run of each variant; other seeds have a config.yaml of their own."]
    if len(commits) > 1:
        paragraphs.append("The runs were made with different commits, see Environment.")
    return Section("reproduce", "How to do it again", paragraphs, (), commands)
