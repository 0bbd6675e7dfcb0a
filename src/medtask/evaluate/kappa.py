"""Cohen's kappa of two readers of the same rows: agreement, with what chance alone would give taken
off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medtask.evaluate.intervals import Estimate, Figures, Units, divide
from medtask.evaluate.weigh import Weighed, estimate


def estimate_kappa(
    one: Sequence[Any],
    other: Sequence[Any],
    units: Units,
    *,
    quadratic: bool = False,
    seed: int = 0,
) -> Estimate | None:
    """Kappa (Cohen 1960) with the bootstrap's interval; None without rows, and where both always
    say one and the same thing.

    ``quadratic``: what is said are numbers, and disagreement counts with the square of its distance
    (Cohen 1968). Otherwise anything that can be compared, None (no answer) being one more thing to
    say.
    """
    if not len(one):
        return None
    found = estimate(
        weigh_distances(one, other) if quadratic else weigh_matches(one, other), units, seed=seed
    )
    return None if np.isnan(found.value) else found


def weigh_matches(one: Sequence[Any], other: Sequence[Any]) -> Weighed:
    """Kappa as sums over rows: rows, rows that agree, and each column's rows by what they say. NaN
    where it is undefined.
    """
    from scipy.sparse import csr_array

    index: dict[Any, int] = {}
    for value in (*one, *other):
        index.setdefault(value, len(index))
    left, right = (
        np.array([index[value] for value in column], dtype=np.int64) for column in (one, other)
    )
    rows, width = len(left), len(index)
    ones, each = np.ones(rows), np.arange(rows)
    cells = np.concatenate([ones, left == right, ones, ones])
    columns = np.concatenate([0 * each, 0 * each + 1, 2 + left, 2 + width + right])
    sums = csr_array((cells, (np.tile(each, 4), columns)), shape=(rows, 2 + 2 * width))

    def figure(totals: Figures) -> Figures:
        n, alike = totals[:, 0], totals[:, 1]
        chance = (totals[:, 2 : 2 + width] * totals[:, 2 + width :]).sum(axis=1)
        return divide(n * alike - chance, n**2 - chance)

    return Weighed(sums, figure)


def weigh_distances(one: Sequence[float], other: Sequence[float]) -> Weighed:
    """Quadratically weighted kappa as sums over rows. By chance two numbers are E x² + E y² - 2 E x
    E y apart in the square.
    """
    from scipy.sparse import csr_array

    left, right = np.array(one, dtype=np.float64), np.array(other, dtype=np.float64)
    sums = csr_array(
        np.stack([np.ones(len(left)), (left - right) ** 2, left, right, left**2 + right**2], axis=1)
    )

    def figure(totals: Figures) -> Figures:
        n, apart, first, second, squares = totals.T
        return np.asarray(1 - divide(n * apart, n * squares - 2 * first * second))

    return Weighed(sums, figure)
