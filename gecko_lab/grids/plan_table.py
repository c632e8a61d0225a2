"""The plan of a grid, printed before it starts."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from gecko_lab.cost import Cost
from gecko_lab.grids.plan import Plan
from gecko_lab.grids.results import POWER, detectable
from gecko_lab.grids.table import duration
from gecko_lab.grids.variants import flags


def print_plan(plan: Plan, noise: float | None, slots: int) -> None:
    """Print what will be trained, what it costs, how long it takes and what it can find.

    Args:
        plan: with steps and predictions.
        noise: standard deviation of paired differences; none where it is not known.
        slots: runs at once.
    """
    console = Console()
    definition = plan.definition
    if plan.question:
        console.print(plan.question, markup=False, highlight=False)
    runs = len(plan.runs())
    seeds = ", ".join(map(str, definition.seeds))
    console.print(
        f"{len(plan.variants)} variants × seeds {seeds} = {runs} runs, base {plan.base.name}, in {plan.folder}"
    )
    console.print(_variants(plan))
    for variant in plan.variants:
        overrides = " ".join(flags(variant.cell.overrides)) or "nothing overridden"
        console.print(f"{variant.name}: {overrides}", soft_wrap=True, markup=False, highlight=False)
    if any(variant.matched for variant in plan.variants):
        console.print(_matched(plan))
    elif definition.match != "none":
        console.print(f"matched      {definition.match} agree within 0.5 % without a change")
    else:
        console.print("matched      nothing: grid.match is none")
    times = [variant.predicted.get("seconds") for variant in plan.variants]
    known = [time for time in times if time is not None]
    if len(known) == len(times):
        total = sum(known) * len(definition.seeds)
        console.print(f"time         about {duration(total / slots)} with {slots} at once, validations not counted")
    else:
        console.print("time         not known: there are no runs yet, and there was no trial")
    smallest = None if noise is None else detectable(plan, noise)
    if noise is None:
        console.print(
            "detectable   not known before two seeds are finished; --noise VALUE gives the standard deviation of "
            "differences, --noise FOLDER takes it from an earlier grid",
            soft_wrap=True,
        )
    elif smallest is None:
        console.print("detectable   nothing: with one seed a difference cannot be told from noise", soft_wrap=True)
    else:
        console.print(
            f"detectable   differences of {smallest:.2g} or more in {definition.metric} are found with "
            f"{POWER:.0%} probability (standard deviation of differences {noise:.2g})",
            soft_wrap=True,
        )


def _variants(plan: Plan) -> Table:
    table = Table()
    table.add_column("variant", overflow="fold")
    for name in ("params", "FLOPs/token", "state", "steps", "tokens", "time", "memory"):
        table.add_column(name, justify="right")
    for variant in plan.variants:
        steps, predicted = variant.steps, variant.predicted
        table.add_row(
            variant.name,
            *_cost(variant.cost),
            "" if steps is None else f"{steps:,}",
            "" if steps is None else _short(steps * variant.tokens_per_step),
            duration(predicted["seconds"]) if "seconds" in predicted else "",
            f"{predicted['memory_bytes'] / 1e9:.1f} GB" if "memory_bytes" in predicted else "",
        )
    return table


def _matched(plan: Plan) -> Table:
    table = Table(title=f"Matched by {plan.definition.match}: before → after, and beside the base")
    table.add_column("variant", overflow="fold")
    table.add_column(plan.definition.match_by, justify="right")
    for name in Cost._fields:
        table.add_column(name.replace("_", " "), justify="right")
    for variant in plan.variants:
        solved = next(iter(variant.matched.values()), None)
        columns = [
            _change(before, after, base)
            for before, after, base in zip(variant.cost_before, variant.cost, plan.base.cost, strict=True)
        ]
        table.add_row(variant.name, "as it is" if solved is None else f"{solved:,}", *columns)
    return table


def _change(before: float, after: float, base: float) -> str:
    beside = f" ({after / base - 1:+.2%})" if base else ""
    return f"{before:,.0f} → {after:,.0f}{beside}" if before != after else f"{after:,.0f}{beside}"


def _cost(cost: Cost) -> tuple[str, str, str]:
    return _short(cost.parameters), _short(cost.flops_per_token), f"{_short(cost.state_bytes)}B"


def _short(number: float) -> str:
    """`950`, `12.3k`, `1.25M`."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.0f}"
