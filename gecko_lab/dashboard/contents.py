"""What TensorBoard shows of a variant and of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary

from gecko_lab.dashboard import hparams
from gecko_lab.dashboard.aggregate import Band, evenly
from gecko_lab.dashboard.curves import RunCurves
from gecko_lab.dashboard.event_folder import Content, Points
from gecko_lab.dashboard.layout import BY_TOKENS, group, has_interval, lower_tag, upper_tag
from gecko_lab.dashboard.members import Member

SINGLE = "seeds/"
"""Prefix of the tags of single runs."""

_VALUES = 150_000  # TensorBoard reads some 30,000 a second
_MOST_POINTS, _FEWEST_POINTS = 256, 16
_COMPONENT_SHARE = 4  # curves of components, of which there are many, have so many times fewer points


@dataclass(frozen=True)
class Resolution:
    """How finely curves are drawn.

    Attributes:
        points: of a curve that stands for the whole network.
    """

    points: int

    @classmethod
    def fitting(cls, tags_and_runs: Iterable[tuple[Iterable[str], int]]) -> Resolution:
        """One with which TensorBoard has read all of it in seconds.

        Args:
            tags_and_runs: of each variant the tags, and the number of runs that are shown singly.
        """
        values = sum(
            3 + runs if has_interval(tag) else (1 + runs) / _COMPONENT_SHARE
            for tags, runs in tags_and_runs
            for tag in tags
            if group(tag) is not None
        )
        wanted = min(_MOST_POINTS, max(_FEWEST_POINTS, int(_VALUES / max(values, 1))))
        return cls(1 << wanted.bit_length() - 1)  # in few sizes, or each new column would have all written again

    def of(self, tag: str) -> int:
        """Points of a curve."""
        return self.points if has_interval(tag) else max(self.points // _COMPONENT_SHARE, 2)


def variant_content(
    member: Member, bands: Mapping[str, Band], resolution: Resolution, *, metric: str, finished: bool
) -> Content:
    """Means and intervals over the seeds.

    Args:
        member: the variant.
        bands: its curves, by tag.
        resolution: of the curves.
        metric: that variants are compared by.
        finished: whether all its runs are.
    """
    content = Content(summaries=_row(member, hparams.MEAN, finished))
    per_step = member.cost.get("tokens_per_step")
    for tag, whole in bands.items():
        if group(tag) is None:
            continue
        band = whole.thinned(resolution.of(tag))
        places = {tag: band.steps}
        if per_step and tag in against_tokens(metric):
            places[BY_TOKENS + tag] = (band.steps * per_step / 1000).round()
        for shown, steps in places.items():
            content.scalars[shown] = (steps, band.mean)
            if has_interval(tag):
                content.scalars[lower_tag(shown)] = (steps, band.lower)
                content.scalars[upper_tag(shown)] = (steps, band.upper)
    ends = {tag: (int(band.steps[-1]), float(band.mean[-1])) for tag, band in bands.items()}
    content.scalars |= _finals(member, ends, metric)
    return content


def run_content(
    member: Member, seed: int, run: RunCurves, resolution: Resolution, *, metric: str, finished: bool
) -> Content:
    """What one run has logged, under tags of its own: where means are compared, single runs are not in the way."""
    content = Content(summaries=_row(member, str(seed), finished))
    for tag, curve in run.curves.items():
        if group(tag) is not None:
            kept = evenly(len(curve.steps), resolution.of(tag))
            content.scalars[SINGLE + tag] = (curve.steps[kept], curve.values[kept])
    ends = {tag: (int(curve.steps[-1]), float(curve.values[-1])) for tag, curve in run.curves.items()}
    content.scalars |= _finals(member, ends, metric)
    return content


def against_tokens(metric: str) -> set[str]:
    """The tags that are shown against thousands of tokens as well."""
    return {metric, "loss/validation", "loss/train"}


def _row(member: Member, seed: str, finished: bool) -> list[Summary.Value]:
    levels = member.levels or {"variant": member.name}
    return hparams.row_summaries({**levels, "seed": seed}, finished=finished)


def _finals(member: Member, ends: Mapping[str, tuple[int, float]], metric: str) -> dict[str, Points]:
    """The columns of the table, a point each at the step where it was reached."""
    last = max((step for step, _ in ends.values()), default=0)
    points = {tag: ends[tag] for tag in hparams.columns_of(metric) if tag in ends}
    points |= {name: (last, member.cost[name]) for name in hparams.COSTS if name in member.cost}
    return {hparams.FINAL + tag: (np.array([step]), np.array([value])) for tag, (step, value) in points.items()}
