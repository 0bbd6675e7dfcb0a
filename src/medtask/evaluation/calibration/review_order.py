"""Order of rows for review, by the number of errors that a review is expected to correct."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.statistics.intervals import FloatArray


def rank_for_review(
    confidence: FloatArray,
    *,
    duplicate_codes: NDArray[np.int64] | None = None,
    off_set: FloatArray | None = None,
) -> tuple[NDArray[np.int64], FloatArray]:
    """Orders rows by the expected number of errors that reviewing them corrects, most first.

    An answer is right with probability ``confidence`` * (1 - ``off_set``).

    Args:
        confidence: Confidence of each answer, [n]; NaN if unknown.
        duplicate_codes: Equal numbers for rows of equal text, [n]. One review corrects all of them,
            so their expected errors are added, and they are placed next to each other.
        off_set: Probability that the truth is outside the label set, [n]; NaN counts as 0.

    Returns:
        The order of the rows, and the expected errors in that order. Ties keep the table's order.
    """
    inside = (
        np.ones(len(confidence))
        if off_set is None
        else 1 - np.nan_to_num(np.clip(off_set, 0, 1), nan=0.0)
    )
    wrong = 1 - np.nan_to_num(np.clip(confidence, 0, 1), nan=0.0) * inside
    unit = (
        np.arange(len(confidence))
        if duplicate_codes is None
        else np.unique(duplicate_codes, return_inverse=True)[1].ravel()
    )
    worth = np.bincount(unit, wrong)[unit]
    first = np.full(int(unit.max(initial=-1)) + 1, len(unit))
    np.minimum.at(first, unit, np.arange(len(unit)))
    # Sums of equal rows may differ in their last digits by the order of addition, so they are
    # rounded.
    order = np.lexsort((np.arange(len(unit)), first[unit], -np.round(worth, 9))).astype(np.int64)
    return order, np.asarray(worth[order], dtype=np.float64)
