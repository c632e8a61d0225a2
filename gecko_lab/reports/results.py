"""The results: final and best values, differences to the base, effects of the axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from gecko_lab import statistics
from gecko_lab.errors import ConfigurationError
from gecko_lab.reports import figures
from gecko_lab.reports.document import Cell, Figure, Section, Table, number, shown, words
from gecko_lab.reports.spread import LEVEL, finite, spread_cell
from gecko_lab.reports.study import Study, better_of
from gecko_lab.runs.metrics_file import METRICS_FILE
from gecko_lab.statistics import Comparison, Effects, Results, Verdict

_PERCENT = f"{100 * LEVEL:g} %"
_DECISION = (
    "The interval is at the level at which Holm's correction over the variants judged it: it leaves out zero exactly "
    "where there is evidence of a difference."
)
_ALSO_SHOWN = ("loss/validation", "bits_per_byte/validation", "accuracy/validation", "exact_match/validation")
_TONES = {"better": "good", "worse": "bad"}


@dataclass(frozen=True)
class Judged:
    """What the statistics say about a study; none of a part that they cannot be had of, with the reason."""

    results: Results
    comparison: Comparison | None
    why_no_comparison: str
    effects: Effects | None
    verdicts: tuple[Verdict, ...]
    effect_verdicts: tuple[Verdict, ...]


def judge(study: Study) -> Judged:
    """Compare the variants by the final value of the study's metric."""
    records = []
    for variant, run in study.runs:
        value = run.last(study.metric) if run.counts else None
        records.append({**variant.levels, "variant": variant.name, "seed": run.seed, "value": value})
    axes = [axis for axis in study.axes if axis not in ("variant", "seed", "value")]
    results = statistics.tidy_results(records, axes=axes)
    lower, unit = study.mode == "min", unit_of(study.metric)
    comparison, reason = None, ""
    verdicts: tuple[Verdict, ...] = ()
    effect_verdicts: tuple[Verdict, ...] = ()
    try:
        comparison = statistics.compare(results, base=study.base, level=LEVEL)
        verdicts = statistics.comparison_verdicts(comparison, lower_is_better=lower, unit=unit)
    except ConfigurationError as error:
        reason = str(error)
    effects = None
    if study.grid.get("design") == "product" and sum(len(levels) > 1 for levels in results.levels.values()) > 1:
        try:
            effects = statistics.factorial_effects(results, base=study.base, level=LEVEL)
            effect_verdicts = statistics.effect_verdicts(effects, lower_is_better=lower, unit=unit)
        except ConfigurationError:  # nothing is finished, which the comparison says
            pass
    return Judged(results, comparison, reason, effects, verdicts, effect_verdicts)


def unit_of(metric: str) -> str:
    """The unit of a metric, where its name tells."""
    name = metric.partition("/")[0]
    return {"loss": "nats", "bits_per_byte": "bits per byte"}.get(name, "")


def results_section(study: Study, judged: Judged) -> Section:
    """Values of each variant, and verdicts."""
    unit = unit_of(study.metric)
    better = "less" if study.mode == "min" else "more"
    paragraphs = [
        f"Compared by {study.metric}{f' in {unit}' if unit else ''}, {better} is better: the last value of each "
        "finished run."
    ]
    blocks: list[Table | Figure] = [_values(study, judged)]
    if judged.comparison is None:
        paragraphs.append(f"No differences: {judged.why_no_comparison}.")
    else:
        blocks.append(_differences(study, judged, judged.comparison))
        forest = _forest(study, judged.comparison)
        blocks += [forest] if forest is not None else []
        paragraphs += _caveats(judged.comparison, judged.results)
    return Section("results", "Results", paragraphs, blocks)


def effects_section(study: Study, judged: Judged) -> Section | None:
    """Main effects and interactions, where the grid is a product of axes."""
    effects = judged.effects
    if effects is None:
        return None
    verdicts = {verdict.name: verdict for verdict in judged.effect_verdicts}
    what = f"least squares over the final {study.metric} of the runs listed under Runs"
    rows = [
        [words(row["effect"]), words(row["kind"]), *_tested(row, what), _verdict(verdicts.get(row["effect"]))]
        for row in effects.table.to_dict("records")
    ]
    rows += [
        [words(name), words("–"), words("–"), words("–"), words(f"cannot be told: {reason}")]
        for name, reason in effects.not_estimable.items()
    ]
    table = Table(
        "effects",
        "Main effects and interactions",
        ["effect", "kind", "estimate", "p, corrected", "verdict"],
        rows,
        note="A main effect is averaged over all levels of the other axes; an interaction is what two changes do "
        f"together beyond the sum of both. Taken for granted: {effects.assumption}.",
    )
    terms = Table(
        "terms",
        "All effects of an axis, or of a pair, at once",
        ["term", "F", "p, not corrected"],
        [
            [words(row["term"]), number(_none(row["f"]), what, digits=4), _p_value(row["p_value"], what)]
            for row in effects.terms.to_dict("records")
        ],
    )
    blocks: list[Table | Figure] = [table]
    known = [row for row in effects.table.to_dict("records") if math.isfinite(row["low"])]
    if known:
        blocks.append(
            figures.forest(
                name=f"{study.key}-effects-forest",
                title="Effects of the components",
                rows=[(row["effect"], row["difference"], row["low"], row["high"], row["significant"]) for row in known],
                metric=study.metric,
                unit=unit_of(study.metric),
                mode=study.mode,
            )
        )
    return Section("effects", "Effects of the axes", (), [*blocks, terms])


def _values(study: Study, judged: Judged) -> Table:
    metrics = [study.metric]
    metrics += [
        name for name in _ALSO_SHOWN if name != study.metric and any(name in run.metrics for _, run in study.runs)
    ]
    columns = ["variant", "seeds", *(f"{when} {metric}" for metric in metrics for when in ("final", "best"))]
    rows = []
    single = True
    for variant in study.variants:
        count = len(finite(variant, lambda run: run.last(study.metric)))
        single &= count < 2
        cells = [_name(study, variant.name), Cell(f"{count} of {len(variant.runs)}", count, "run.json of each run")]
        for metric in metrics:
            mode = study.mode if metric == study.metric else better_of(metric)
            source = f"{METRICS_FILE}, column {metric}"
            cells.append(spread_cell(study, variant, lambda run, m=metric: run.last(m), f"the last value of {source}"))  # type: ignore[misc]
            cells.append(
                spread_cell(
                    study,
                    variant,
                    lambda run, m=metric, by=mode: run.best(m, by),  # type: ignore[misc]
                    f"the best value ({mode}) of {source}",
                )
            )
        rows.append(cells)
    note = (
        "No intervals: one seed does not tell how much the seed alone changes."
        if single
        else f"Means over the seeds with {_PERCENT} t intervals, each from the variant's own seeds alone, none with "
        "one seed. The differences below use that seeds are paired, and are more precise than these intervals suggest."
    )
    return Table("values", "Final and best values", columns, rows, note=note)


def _differences(study: Study, judged: Judged, comparison: Comparison) -> Table:
    verdicts = {verdict.name: verdict for verdict in judged.verdicts}
    rows = []
    for row in comparison.table.to_dict("records"):
        variant = study.variant(row["variant"])
        seeds = {run.seed for run, _ in finite(study.variant(study.base), lambda run: run.last(study.metric))}
        of = [
            study.relative(run)
            for run, _ in finite(variant, lambda run: run.last(study.metric))
            if run.seed in seeds or comparison.variance == "pooled"
        ]
        source = f"last value of {METRICS_FILE}, column {study.metric}, in {', '.join(of)} minus those of {study.base}"
        rows.append(
            [
                _name(study, variant.name),
                Cell(str(row["num_seeds"]), row["num_seeds"], source),
                *_tested(row, source),
                number(_none(row["detectable"]), source, digits=2),
                _verdict(verdicts[variant.name]),
            ]
        )
    rows += [
        [_name(study, name), words("0"), words("–"), words("–"), words("–"), words(f"not compared: {reason}")]
        for name, reason in comparison.not_compared.items()
    ]
    return Table(
        "differences",
        f"Paired differences to {study.base}",
        ["variant", "seeds", "difference", "p, corrected", "detectable", "verdict"],
        rows,
        note=f"{_DECISION} Detectable: the smallest true difference found with {100 * comparison.power:g} % "
        f"probability. Taken for granted: {comparison.assumption}.",
    )


def _forest(study: Study, comparison: Comparison) -> Figure | None:
    known = [row for row in comparison.table.to_dict("records") if math.isfinite(row["low"])]
    if not known:
        return None
    return figures.forest(
        name=f"{study.key}-forest",
        title=f"Differences to {study.base}",
        rows=[(row["variant"], row["difference"], row["low"], row["high"], row["significant"]) for row in known],
        metric=study.metric,
        unit=unit_of(study.metric),
        mode=study.mode,
    )


def _caveats(comparison: Comparison, results: Results) -> list[str]:
    caveats = []
    if comparison.unequal_noise_p_value < 0.05:
        caveats.append(
            f"The variants seem to differ in how much the seed changes them (Bartlett's test, p = "
            f"{shown(comparison.unequal_noise_p_value, 2)}): intervals that pool their noise may mislead."
        )
    if len(comparison.failures) or results.missing:
        count = len(comparison.failures) + len(results.missing)
        caveats.append(
            f"{count} run{' is' if count == 1 else 's are'} left out of the statistics (see What did not finish): if "
            "runs fail because of what they change, those that are left flatter it."
        )
    return caveats


def _tested(row: dict[str, Any], source: str) -> list[Cell]:
    difference = row["difference"]
    sign = "+" if difference > 0 else ""
    if not math.isfinite(row["low"]):
        return [Cell(f"{sign}{shown(difference, 3)}", difference, source), words("–")]
    half = (row["high"] - row["low"]) / 2
    text = f"{sign}{shown(difference, 3)}"
    if half > 0:
        decimals = min(max(1 - math.floor(math.log10(half)), 0), 8)
        ends = f"{row['low']:+.{decimals}f}, {row['high']:+.{decimals}f}"
        text = f"{difference:+.{decimals}f} [{ends}]".replace("-", "−")
    return [Cell(text, difference, source), _p_value(row["adjusted_p_value"], source)]


def _p_value(value: float, source: str) -> Cell:
    if not math.isfinite(value):
        return words("–")
    return Cell("< 0.0001" if value < 1e-4 else shown(value, 2), value, source)


def _verdict(verdict: Verdict | None) -> Cell:
    if verdict is None:
        return words("–")
    return words(verdict.text, tone=_TONES.get(verdict.outcome, ""))


def _name(study: Study, name: str) -> Cell:
    return words(f"{name} (base)" if name == study.base else name)


def _none(value: float) -> float | None:
    return value if math.isfinite(value) else None
