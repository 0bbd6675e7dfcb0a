"""Cohen's kappa of two annotators: agreement beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medtask.evaluation.statistics.intervals import (
    FloatArray,
    Metric,
    ResamplingUnits,
    divide_or_nan,
)
from medtask.evaluation.statistics.metric_sums import MetricSums, estimate_metric


def estimate_kappa(
    ratings_a: Sequence[Any],
    ratings_b: Sequence[Any],
    units: ResamplingUnits,
    *,
    quadratic: bool = False,
    seed: int = 0,
) -> Metric | None:
    """Kappa (Cohen 1960) with a bootstrap interval.

    Args:
        ratings_a: Any comparable values; None (no answer) counts as a separate value.
        ratings_b: Values of the same rows.
        units: Units of the bootstrap.
        quadratic: Whether the values are numbers and disagreement counts by its square (Cohen
            1968).
        seed: Seed of the bootstrap.

    Returns:
        Kappa; None without rows, or if all ratings are equal.
    """
    if not len(ratings_a):
        return None
    found = estimate_metric(
        build_quadratic_kappa_sums(ratings_a, ratings_b)
        if quadratic
        else build_kappa_sums(ratings_a, ratings_b),
        units,
        seed=seed,
    )
    return None if np.isnan(found.value) else found


def build_kappa_sums(ratings_a: Sequence[Any], ratings_b: Sequence[Any]) -> MetricSums:
    """Kappa as sums over rows: rows, equal rows, and rows by value of each column.

    NaN if undefined.
    """
    from scipy.sparse import csr_array

    index: dict[Any, int] = {}
    for value in (*ratings_a, *ratings_b):
        index.setdefault(value, len(index))
    left, right = (
        np.array([index[value] for value in column], dtype=np.int64)
        for column in (ratings_a, ratings_b)
    )
    rows, width = len(left), len(index)
    ones, each = np.ones(rows), np.arange(rows)
    cells = np.concatenate([ones, left == right, ones, ones])
    columns = np.concatenate([0 * each, 0 * each + 1, 2 + left, 2 + width + right])
    sums = csr_array((cells, (np.tile(each, 4), columns)), shape=(rows, 2 + 2 * width))

    def figure(totals: FloatArray) -> FloatArray:
        n, alike = totals[:, 0], totals[:, 1]
        chance = (totals[:, 2 : 2 + width] * totals[:, 2 + width :]).sum(axis=1)
        return divide_or_nan(n * alike - chance, n**2 - chance)

    return MetricSums(sums, figure)


def build_quadratic_kappa_sums(
    ratings_a: Sequence[float], ratings_b: Sequence[float]
) -> MetricSums:
    """Quadratically weighted kappa as sums over rows; chance: E x² + E y² - 2 E x E y."""
    from scipy.sparse import csr_array

    left, right = np.array(ratings_a, dtype=np.float64), np.array(ratings_b, dtype=np.float64)
    sums = csr_array(
        np.stack([np.ones(len(left)), (left - right) ** 2, left, right, left**2 + right**2], axis=1)
    )

    def figure(totals: FloatArray) -> FloatArray:
        n, apart, first, second, squares = totals.T
        return np.asarray(1 - divide_or_nan(n * apart, n * squares - 2 * first * second))

    return MetricSums(sums, figure)
