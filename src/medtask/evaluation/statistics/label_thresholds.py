"""The threshold of one label, fitted on gold for the best F1 or for a required recall."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

MIN_LABEL_ROWS = 5  # gold rows of a label; with fewer, its threshold would be fitted to noise
DEFAULT_THRESHOLD = 0.5
# The best F1 of a label with few gold rows is at a random threshold: it is moved towards the
# threshold that is best for all labels, with the weight of this many gold rows.
_PRIOR_ROWS = 20
RECALL_FLOOR = 0.9

ThresholdGoal = Literal["f1", "recall"]


def fit_thresholds(
    probabilities: NDArray[np.float64],
    truth: NDArray[np.bool_],
    goal: ThresholdGoal = "f1",
    recall_floor: float = RECALL_FLOOR,
) -> list[float]:
    """Fits the threshold of each label; see `fit_threshold`.

    For F1, those of labels with few gold rows are moved, on the log-odds scale, towards the
    threshold with the best micro-averaged F1.

    Args:
        probabilities: [rows, labels].
        truth: Whether each label applies, [rows, labels].
        goal: "f1" or "recall".
        recall_floor: The least recall for "recall".
    """
    from scipy.special import expit, logit

    own = [
        fit_threshold(column, right, goal, recall_floor)
        for column, right in zip(probabilities.T, truth.T, strict=True)
    ]
    if goal == "recall" or len(own) < 2:
        return own
    common = fit_threshold(probabilities.ravel(), truth.ravel(), goal, recall_floor)
    rows = truth.sum(axis=0)
    weights = rows / (rows + _PRIOR_ROWS)
    limits = (1e-3, 1 - 1e-3)
    moved = expit(
        weights * logit(np.clip(own, *limits)) + (1 - weights) * logit(np.clip(common, *limits))
    )
    return [
        float(kept if few else shrunk)
        for few, kept, shrunk in zip(rows < MIN_LABEL_ROWS, own, moved, strict=True)
    ]


def fit_threshold(
    probabilities: NDArray[np.float64],
    truth: NDArray[np.bool_],
    goal: ThresholdGoal,
    recall_floor: float = RECALL_FLOOR,
) -> float:
    """Fits the threshold of one label, in [0, 1]; 0.5 with fewer than five rows.

    It maximises F1, or is the highest with a recall of ``recall_floor``. It is half-way to the next
    lower probability, so that rounding does not change decisions.
    """
    if truth.sum() < MIN_LABEL_ROWS:
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = _compute_precision_and_recall(probabilities, truth)
    if goal == "recall":
        best = int(np.flatnonzero(recall >= recall_floor)[-1])
    else:
        total = precision + recall
        best = int(np.argmax(2 * precision * recall / np.where(total > 0, total, 1.0)))
    below = thresholds[best - 1] if best > 0 else max(0.0, 2 * thresholds[best] - 1.0)
    return float((thresholds[best] + below) / 2)


def _compute_precision_and_recall(
    probabilities: NDArray[np.float64], truth: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Precision and recall at each probability that occurs, from the lowest to the highest."""
    # As scikit-learn's precision_recall_curve, whose checks take forty times as long for the
    # rows of a fold.
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)  # of equal probabilities
    hits = np.cumsum(truth[order])[last]
    return (hits / (last + 1))[::-1], (hits / hits[-1])[::-1], ranked[last][::-1]
