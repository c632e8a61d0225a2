"""The table of results: one row for each run of a grid."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from gecko_lab.errors import ConfigurationError, nearest

RESERVED = ("variant", "seed", "value")


@dataclass(frozen=True)
class Results:
    """Runs of a grid, finished and failed.

    Attributes:
        table: the runs with a finite value. Columns: `variant` (str), one for each axis (the level's name, str), `seed`
            (int), `value` (float). Rows are sorted by variant, in the order of the records, and seed.
        failures: the runs without one, with the same columns and `reason` (str), sorted alike.
        axes: names of the axes.
        variants: every variant, also one whose runs all failed, in the order of the records.
        levels: for each axis its levels, in the order of the records.
    """

    table: pd.DataFrame
    failures: pd.DataFrame
    axes: tuple[str, ...]
    variants: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of any run, finished or failed, ascending."""
        return tuple(sorted({*self.table["seed"].tolist(), *self.failures["seed"].tolist()}))

    @property
    def missing(self) -> tuple[tuple[str, int], ...]:
        """(variant, seed) of the runs that no record tells of, although the seed was run in another variant."""
        rows = pd.concat([self.table, self.failures])
        known = set(zip(rows["variant"], rows["seed"], strict=True))
        return tuple((v, s) for v in self.variants for s in self.seeds if (v, s) not in known)

    def finished_seeds(self, variant: str) -> tuple[int, ...]:
        """Seeds with a finite value in this variant, ascending."""
        return tuple(self.table.loc[self.table["variant"] == variant, "seed"].tolist())

    def require_variant(self, variant: str) -> None:
        """Raise ConfigurationError unless the variant is there and has a finite value."""
        if variant not in self.variants:
            raise ConfigurationError(f"No variant {variant!r} in these results{nearest(variant, self.variants)}")
        if not self.finished_seeds(variant):
            raise ConfigurationError(
                f"No run of the variant {variant!r} has a finite value, so nothing can be compared with it: "
                "run it again, or name another base"
            )


def tidy_results(records: Iterable[Mapping[str, Any]], *, axes: Sequence[str] = ()) -> Results:
    """The table of results from one record for each run.

    Args:
        records: each with `variant`, `seed`, `value` and a level for each axis; other keys are left out. A value of
            None, NaN or ±inf is a failed run. Levels are turned into text.
        axes: names of the grid's axes.

    Raises:
        ConfigurationError: no records, a key is missing or of the wrong type, a variant has two records for one seed or
            two levels on one axis, or an axis is called like a column.
    """
    axes = tuple(axes)
    for axis in axes:
        if axis in RESERVED or axes.count(axis) > 1:
            raise ConfigurationError(f"An axis cannot be called {axis!r}: that column is already there")
    rows = [_row(number, record, axes) for number, record in enumerate(records)]
    if not rows:
        raise ConfigurationError("There are no results: no record was given")
    frame = pd.DataFrame(rows, columns=["variant", *axes, "seed", "value", "reason"])

    twice = frame[frame.duplicated(["variant", "seed"])]
    if len(twice):
        first = twice.iloc[0]
        raise ConfigurationError(
            f"The variant {first['variant']!r} has more than one result for seed {first['seed']}: keep one run of each "
            "variant and seed"
        )
    for axis in axes:
        levels = frame.groupby("variant")[axis].nunique()
        if (levels > 1).any():
            variant = str(levels.idxmax())
            found = sorted(set(frame.loc[frame["variant"] == variant, axis]))
            raise ConfigurationError(
                f"The variant {variant!r} has several levels on the axis {axis!r} ({', '.join(found)}): "
                "give each combination of levels its own variant"
            )

    variants = tuple(dict.fromkeys(frame["variant"].tolist()))
    order = frame["variant"].map({variant: position for position, variant in enumerate(variants)})
    frame = frame.iloc[np.lexsort((frame["seed"].to_numpy(), order.to_numpy()))]
    finished = (frame["reason"] == "").to_numpy()
    return Results(
        table=frame[finished].drop(columns="reason").reset_index(drop=True).astype({"value": float}),
        failures=frame[~finished].reset_index(drop=True),
        axes=axes,
        variants=variants,
        levels={axis: tuple(dict.fromkeys(row[axis] for row in rows)) for axis in axes},
    )


def _row(number: int, record: Mapping[str, Any], axes: tuple[str, ...]) -> dict[str, Any]:
    """One checked row, with the reason why its value is none, or an empty one."""
    for key in (*RESERVED, *axes):
        if key not in record:
            raise ConfigurationError(f"The record {number} has no {key!r}: {dict(record)}")
    try:
        seed = operator.index(record["seed"])
    except TypeError:
        raise ConfigurationError(f"The record {number} has a seed that is no integer: {record['seed']!r}") from None
    value = record["value"]
    if value is None:
        reason, value = "no value", math.nan
    else:
        try:
            value = float(value)
        except (TypeError, ValueError):
            raise ConfigurationError(f"The record {number} has a value that is no number: {value!r}") from None
        reason = "" if math.isfinite(value) else str(value)
    levels = {axis: str(record[axis]) for axis in axes}
    return {"variant": str(record["variant"]), **levels, "seed": seed, "value": value, "reason": reason}
