"""Main effects and two-way interactions of factorial grids.

With axes a, b, … and μ the mean of a cell of the full product,

    main effect of a, x instead of r                 μ(x, …) − μ(r, …)
    interaction of a, x instead of r,                [μ(x, y, …) − μ(r, y, …)] − [μ(x, q, …) − μ(r, q, …)]
      with b, y instead of q

averaged over the levels of the other axes, where r and q are the base's levels. Every level of the other axes weighs
the same, whether or not runs are missing (effect coding, "type III"). Both are in the value's units: an interaction is
what the two changes do together beyond the sum of what each does alone.

Each cell has a mean of its own, so the residuals are noise between seeds and nothing else. Where this leaves no degree
of freedom (one seed) or a cell has no run, interactions of three and more axes are taken to be zero, and the result
says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from gecko_lab.errors import ConfigurationError
from gecko_lab.statistics.block_model import BlockModel
from gecko_lab.statistics.inference import COLUMNS, Correction, judge
from gecko_lab.statistics.results import Results

Kind = Literal["main", "interaction"]
Term = tuple[str, ...]  # one axis for a main effect, two for an interaction
ALL_INTERACTIONS = "every cell of the product has a mean of its own"
TWO_WAY = "interactions of three and more axes are zero"
NOISE = "the noise between seeds is normal, of the same size in every cell; a seed moves all cells alike"


@dataclass(frozen=True)
class Effects:
    """Effects of the axes of a factorial grid.

    Attributes:
        table: one row for each effect that the runs can tell. Columns: `effect` (its name, such as `memory: on − off`
            or `memory: on − off × decay: on − off`), `kind` (`main` or `interaction`), `axis`, `level`, `reference`,
            `other_axis`, `other_level`, `other_reference` (empty for main effects), and those of `judge` (see
            `Comparison`). Main effects are corrected as one family, interactions as another.
        terms: one row for each axis and pair of axes whose effects can all be told: `term` (`memory`, `memory ×
            decay`), `kind`, `num_effects`, `f`, `p_value`: the F test that all its effects are zero, not corrected.
        not_estimable: for each effect that the runs cannot tell the reason why.
        failures: the runs that were left out, as in `Results`.
        num_seeds: seeds with a finished run.
        assumption: what the tests take for granted, in words.
        level, correction, power: as given to `factorial_effects`.
    """

    table: pd.DataFrame
    terms: pd.DataFrame
    not_estimable: dict[str, str]
    failures: pd.DataFrame
    num_seeds: int
    assumption: str
    level: float
    correction: Correction
    power: float


def factorial_effects(
    results: Results,
    *,
    base: str,
    level: float = 0.95,
    correction: Correction = "holm",
    power: float = 0.8,
) -> Effects:
    """Main effects and two-way interactions of the axes of `results`, relative to the levels of `base`.

    Args:
        results: the runs; failed ones are left out and reported. Axes with one level are passed over.
        base: the variant whose levels the others are measured from; its own runs may have failed.
        level, correction, power: as for `compare`.

    Raises:
        ConfigurationError: no axis has two levels, the base is unknown, or no run has a finite value.
    """
    if base not in results.variants:
        results.require_variant(base)
    axes = {axis: levels for axis, levels in results.levels.items() if len(levels) > 1}
    if not axes:
        raise ConfigurationError(
            "No axis of these results has two levels, so there are no effects of axes: compare the variants instead"
        )
    if not len(results.table):
        raise ConfigurationError("No run has a finite value, so there are no effects")
    columns = ["variant", *axes]
    cells = pd.concat([results.table[columns], results.failures[columns]]).drop_duplicates().set_index("variant")
    reference = {axis: str(cells.loc[base, axis]) for axis in axes}
    contrasts = _contrasts(axes, reference)
    fitted = _Design.fit(results.table, axes)
    rows = fitted.rows([vectors for _, vectors in contrasts])
    estimable = fitted.model.estimable(rows)
    differences, unit_errors = fitted.model.estimates(rows)

    table = pd.DataFrame([names for names, _ in contrasts])
    parts = []
    for kind in ("main", "interaction"):
        chosen = estimable & (table["kind"] == kind).to_numpy()
        freedoms = np.full(int(chosen.sum()), float(fitted.model.degrees_of_freedom))
        errors = fitted.model.noise * unit_errors[chosen]
        judged = judge(differences[chosen], errors, freedoms, level=level, correction=correction, power=power)
        parts.append(pd.concat([table[chosen].reset_index(drop=True), judged[list(COLUMNS)]], axis=1))
    reason = "the finished runs do not hold the combinations of levels that it is made of"
    return Effects(
        table=pd.concat(parts, ignore_index=True),
        terms=_terms(fitted.model, table, rows, estimable),
        not_estimable=dict.fromkeys(table.loc[~estimable, "effect"].tolist(), reason),
        failures=results.failures,
        num_seeds=results.table["seed"].nunique(),
        assumption=f"{NOISE}; {fitted.assumption}",
        level=level,
        correction=correction,
        power=power,
    )


def smallest_factorial_effects(
    levels: Mapping[str, Sequence[str]],
    *,
    paired_standard_deviation: float,
    num_seeds: int,
    level: float = 0.95,
    correction: Correction = "holm",
    power: float = 0.8,
) -> pd.DataFrame:
    """What the full product of `levels` over `num_seeds` seeds will be able to find, before any run.

    Args:
        levels: for each axis its levels, the base's first.
        paired_standard_deviation: between seeds, of the difference of two variants, in the value's units.
        num_seeds: runs of each cell.
        level, correction, power: as for `factorial_effects`.

    Returns:
        Columns `effect`, `kind`, the axes and levels as in `Effects.table`, `standard_error`, `degrees_of_freedom` and
        `detectable`, in the value's units; NaN where too few runs are planned.
    """
    if num_seeds < 1 or not any(len(set(names)) > 1 for names in levels.values()):
        raise ConfigurationError("A factorial grid has at least one seed and an axis with two levels")
    axes = {axis: tuple(dict.fromkeys(names)) for axis, names in levels.items() if len(set(names)) > 1}
    runs = [
        {**dict(zip(axes, cell, strict=True)), "variant": "·".join(cell), "seed": seed, "value": 0.0}
        for cell in itertools.product(*axes.values())
        for seed in range(num_seeds)
    ]
    fitted = _Design.fit(pd.DataFrame(runs), axes)
    contrasts = _contrasts(axes, {axis: names[0] for axis, names in axes.items()})
    _, unit_errors = fitted.model.estimates(fitted.rows([vectors for _, vectors in contrasts]))
    freedom = fitted.model.degrees_of_freedom
    noise = paired_standard_deviation / np.sqrt(2) if freedom else np.nan
    table = pd.DataFrame([names for names, _ in contrasts])
    for kind in ("main", "interaction"):
        chosen = (table["kind"] == kind).to_numpy()
        errors = noise * unit_errors[chosen]
        judged = judge(
            np.zeros(len(errors)),
            errors,
            np.full(len(errors), float(freedom)),
            level=level,
            correction=correction,
            power=power,
        )
        for column in ("standard_error", "degrees_of_freedom", "detectable"):
            table.loc[chosen, column] = judged[column].to_numpy()
    return table


@dataclass(frozen=True)
class _Design:
    """A fitted model over the cells of a product.

    A column of the model matrix stands for some axes, each at one level: it is 1 in the runs that have all these
    levels.
    """

    model: BlockModel
    columns: list[dict[str, str]]
    axes: Mapping[str, tuple[str, ...]]
    assumption: str

    @classmethod
    def fit(cls, table: pd.DataFrame, axes: Mapping[str, tuple[str, ...]]) -> _Design:
        observed = set(table[list(axes)].itertuples(index=False, name=None))
        full = len(observed) == np.prod([len(levels) for levels in axes.values()], dtype=float)
        if full:
            design = cls._with(table, axes, [tuple(axes)], ALL_INTERACTIONS)
            if design.model.degrees_of_freedom or len(axes) < 3:
                return design
        terms: list[Term] = [(), *((axis,) for axis in axes), *itertools.combinations(axes, 2)]
        return cls._with(table, axes, terms, TWO_WAY if len(axes) > 2 else ALL_INTERACTIONS)

    @classmethod
    def _with(
        cls, table: pd.DataFrame, axes: Mapping[str, tuple[str, ...]], terms: Sequence[Term], assumption: str
    ) -> _Design:
        columns = [
            dict(zip(term, levels, strict=True))
            for term in terms
            for levels in itertools.product(*(axes[axis] for axis in term))
        ]
        cells = table[["variant", *axes]].drop_duplicates("variant").to_dict("records")
        design = {
            cell["variant"]: np.array([float(column.items() <= cell.items()) for column in columns]) for cell in cells
        }
        return cls(BlockModel(table, design), columns, axes, assumption)

    def rows(self, contrasts: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Contrasts [C, P] of the columns, from one vector of weights over its levels for each axis.

        The weight of a cell is the product of its levels' weights; summed over the cells that have a column's levels,
        the other axes give the sums of their vectors.
        """
        rows = np.ones((len(contrasts), len(self.columns)))
        for row, vectors in enumerate(contrasts):
            weights = {axis: dict(zip(self.axes[axis], vector, strict=True)) for axis, vector in vectors.items()}
            sums = {axis: vector.sum() for axis, vector in vectors.items()}
            for position, column in enumerate(self.columns):
                for axis in self.axes:
                    rows[row, position] *= weights[axis][column[axis]] if axis in column else sums[axis]
        return rows


def _contrasts(
    axes: Mapping[str, tuple[str, ...]], reference: Mapping[str, str]
) -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """Names of each effect, and for every axis the weights of its levels: a difference, or the average."""
    average = {axis: np.full(len(levels), 1 / len(levels)) for axis, levels in axes.items()}

    def changes(axis: str) -> list[tuple[str, np.ndarray]]:
        levels, origin = axes[axis], axes[axis].index(reference[axis])
        unit = np.eye(len(levels))
        return [(level, unit[i] - unit[origin]) for i, level in enumerate(levels) if i != origin]

    none = {"other_axis": "", "other_level": "", "other_reference": ""}
    contrasts: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
    for axis in axes:
        for level, vector in changes(axis):
            names = {"kind": "main", "axis": axis, "level": level, "reference": reference[axis], **none}
            label = f"{axis}: {level} − {reference[axis]}"
            contrasts.append(({"effect": label, **names}, {**average, axis: vector}))
    for first, second in itertools.combinations(axes, 2):
        for (level, vector), (other, other_vector) in itertools.product(changes(first), changes(second)):
            names = {
                "kind": "interaction",
                "axis": first,
                "level": level,
                "reference": reference[first],
                "other_axis": second,
                "other_level": other,
                "other_reference": reference[second],
            }
            label = f"{first}: {level} − {reference[first]} × {second}: {other} − {reference[second]}"
            contrasts.append(({"effect": label, **names}, {**average, first: vector, second: other_vector}))
    return contrasts


def _terms(model: BlockModel, table: pd.DataFrame, rows: np.ndarray, estimable: np.ndarray) -> pd.DataFrame:
    """F tests of each axis and pair of axes."""
    tests = []
    for (axis, other), group in table.groupby(["axis", "other_axis"], sort=False):
        chosen = group.index.to_numpy()
        if estimable[chosen].all():
            f, p_value = model.joint_test(rows[chosen])
            tests.append(
                {
                    "term": f"{axis} × {other}" if other else axis,
                    "kind": group["kind"].iloc[0],
                    "num_effects": len(chosen),
                    "f": f,
                    "p_value": p_value,
                }
            )
    return pd.DataFrame(tests, columns=["term", "kind", "num_effects", "f", "p_value"])
