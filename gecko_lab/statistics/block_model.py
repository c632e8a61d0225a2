"""Least squares with the seed as a block: what a comparison, the noise floor and factorial effects share."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.regression.linear_model import OLS

Array = NDArray[np.float64]


class BlockModel:
    """value = what the variant's row of the design says + effect of the seed + noise of one standard deviation.

    Attributes:
        degrees_of_freedom: of the residuals; 0 where nothing is repeated.
        noise: standard deviation σ of the noise of one run, in the value's units; NaN without degrees of freedom, and
            exactly 0 where the residuals are no more than rounding errors.
        rounding: differences up to this are rounding errors of float64, in the value's units.
        residuals: one for each row of `table`, which is sorted by variant's name and seed so that results do not depend
            on the order of the rows.

    Args:
        table: columns `variant`, `seed`, `value`; no missing values.
        design: for each variant the vector [P] of its part of the model matrix.
    """

    def __init__(self, table: pd.DataFrame, design: Mapping[str, Array]) -> None:
        self.table = table.sort_values(["variant", "seed"], ignore_index=True)
        values = self.table["value"].to_numpy(dtype=float)
        seeds, seed_of_row = np.unique(self.table["seed"].to_numpy(), return_inverse=True)
        treatments = np.stack([design[variant] for variant in self.table["variant"]])
        # The first seed has no column: together the seeds' columns would repeat the sum of the variants' columns.
        blocks = np.eye(len(seeds))[seed_of_row][:, 1:]
        matrix = np.concatenate([treatments, blocks], axis=1)
        # In a basis of the row space no column repeats another, and every contrast that can be told has one value.
        _, singular_values, directions = np.linalg.svd(matrix, full_matrices=False)
        self._basis = directions[singular_values > 1e-10 * singular_values[0]].T
        # Every design spans the constant, so centring changes no difference and saves digits.
        self.fit = OLS(values - values.mean(), matrix @ self._basis).fit()
        self.residuals: Array = self.fit.resid
        self.degrees_of_freedom = round(self.fit.df_resid)
        self.rounding = 64 * float(np.finfo(float).eps * np.abs(values).max())
        self.noise = float("nan")
        if self.degrees_of_freedom:
            noise = float(np.sqrt(self.residuals @ self.residuals / self.degrees_of_freedom))
            self.noise = noise if noise > self.rounding else 0.0
        self._num_blocks = blocks.shape[1]

    def _padded(self, contrasts: Array) -> Array:
        return np.pad(contrasts, ((0, 0), (0, self._num_blocks)))

    def estimable(self, contrasts: Array) -> NDArray[np.bool_]:
        """Which rows of `contrasts` [C, P] the runs can tell: those in the row space of the model matrix."""
        rows = self._padded(contrasts)
        inside: NDArray[np.bool_] = np.abs(rows - rows @ self._basis @ self._basis.T).max(axis=1) < 1e-8
        return inside

    def estimates(self, contrasts: Array) -> tuple[Array, Array]:
        """Least-squares estimates [C] of `contrasts` [C, P] and their standard errors in units of σ [C]."""
        rows = self._padded(contrasts) @ self._basis
        differences: Array = rows @ self.fit.params
        if self.noise == 0:
            differences = np.where(np.abs(differences) <= self.rounding, 0.0, differences)
        return differences, np.sqrt(np.diag(self.fit.cov_params(r_matrix=rows, scale=1.0)))

    def joint_test(self, contrasts: Array) -> tuple[float, float]:
        """F and its p-value for all of `contrasts` [C, P] being zero; NaN without degrees of freedom."""
        if not self.degrees_of_freedom:
            return float("nan"), float("nan")
        if self.noise == 0:
            differences, _ = self.estimates(contrasts)
            return (float("inf"), 0.0) if differences.any() else (0.0, 1.0)
        test = self.fit.f_test(self._padded(contrasts) @ self._basis)
        return np.asarray(test.fvalue).item(), np.asarray(test.pvalue).item()


def block_model(table: pd.DataFrame) -> tuple[BlockModel, list[str]]:
    """The model with a mean of its own for every variant, and the variants in the order of the design's columns."""
    variants = sorted(set(table["variant"]))
    return BlockModel(table, dict(zip(variants, np.eye(len(variants)), strict=True))), variants
