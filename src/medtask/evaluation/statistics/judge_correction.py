"""Corrects a judge's metrics for its errors, as measured by people's grades.

Shares are corrected by the method of Rogan and Gladen, means by prediction-powered inference.
Neither is in scipy or scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np

from medtask.evaluation.statistics.intervals import Z_VALUE, Metric

# graded answers per class; with fewer, the judge's error rates are too uncertain
MIN_GRADES_PER_CLASS = 5
MIN_GRADES = 30  # for a mean, because its interval assumes a normal distribution


def correct_proportion(
    judged_acceptable: tuple[int, int],
    human_acceptable: tuple[int, int],
    human_unacceptable: tuple[int, int],
) -> Metric | None:
    """Estimates the true share of good answers from a judge with known error rates.

    Rogan and Gladen 1978; the interval is that of Lang and Reiczigel 2014 (Prev Vet Med 113:13-22,
    equations 15 to 17) for three independent samples.

    Args:
        judged_acceptable: Hits and rows: what the judge accepts of the answers that no person
            graded.
        human_acceptable: Hits and rows: what it accepts of those that people accept (sensitivity).
        human_unacceptable: Hits and rows: what it rejects of those that people reject
            (specificity).

    Returns:
        The share; None if a sample is empty, sensitivity + specificity <= 1, or no share fits.
    """
    if not (judged_acceptable[1] and human_acceptable[1] and human_unacceptable[1]):
        return None
    (share, sensitivity, specificity) = (
        hits / rows for hits, rows in (judged_acceptable, human_acceptable, human_unacceptable)
    )
    z = Z_VALUE
    # "Add successes and failures" (Agresti and Coull 1998); without it the interval has the poor
    # coverage of Wald's.
    p = (judged_acceptable[0] + z**2 / 2) / (judged_acceptable[1] + z**2)
    n = judged_acceptable[1] + z**2
    (se, n_se), (sp, n_sp) = (
        ((hits + 1) / (rows + 2), rows + 2) for hits, rows in (human_acceptable, human_unacceptable)
    )
    skill = se + sp - 1
    if sensitivity + specificity <= 1 or skill <= 0:
        return None
    value = min(1.0, max(0.0, (share + specificity - 1) / (sensitivity + specificity - 1)))
    middle = (p + sp - 1) / skill
    of_se, of_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z**2 * (middle * of_se - (1 - middle) * of_sp)
    reach = z * sqrt(p * (1 - p) / n + middle**2 * of_se + (1 - middle) ** 2 * of_sp) / skill
    if middle + shift + reach < 0 or middle + shift - reach > 1:
        return None  # clipped to 0 or 1, the interval would have no width and look certain
    low, high = (min(1.0, max(0.0, middle + shift + side * reach)) for side in (-1, 1))
    return Metric(
        value,
        judged_acceptable[1] + human_acceptable[1] + human_unacceptable[1],
        min(low, value),
        max(high, value),
    )


def correct_mean(
    human_grades: Sequence[float], judge_grades: Sequence[float], judge_only_grades: Sequence[float]
) -> Metric | None:
    """Estimates the mean of people's grades from their grades of some rows and a judge's of all.

    Prediction-powered inference with the weight that gives the narrowest interval (PPI++,
    Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453), so it is never much wider than from
    people's grades alone.

    Args:
        human_grades: People's grades of a random sample of the rows.
        judge_grades: The judge's grades of the same rows.
        judge_only_grades: The judge's grades of all other rows.

    Returns:
        The mean; None without rows.
    """
    truth, judge_values, judge_only_values = (
        np.asarray(numbers, dtype=np.float64)
        for numbers in (human_grades, judge_grades, judge_only_grades)
    )
    if not len(truth):
        return None
    weight = compute_ppi_weight(truth, judge_values, judge_only_values)
    value = float(truth.mean()) + (
        weight * float(judge_only_values.mean() - judge_values.mean()) if weight else 0.0
    )
    spread = float((truth - weight * judge_values).var()) / len(truth) + (
        weight**2 * float(judge_only_values.var()) / len(judge_only_values) if weight else 0.0
    )
    n = len(truth) + len(judge_only_values)
    if not spread:
        return Metric(value, n)
    reach = Z_VALUE * sqrt(spread)
    return Metric(value, n, value - reach, value + reach)


def compute_ppi_weight(
    truth: np.ndarray, judge_values: np.ndarray, judge_only_values: np.ndarray
) -> float:
    """The weight of the judge in PPI++, from 0 (uninformative) to 1."""
    spread = float(np.concatenate([judge_values, judge_only_values]).var())
    if not len(judge_only_values) or not spread:
        return 0.0
    together = float(np.mean((truth - truth.mean()) * (judge_values - judge_values.mean())))
    return min(1.0, max(0.0, together / (spread * (1 + len(truth) / len(judge_only_values)))))
