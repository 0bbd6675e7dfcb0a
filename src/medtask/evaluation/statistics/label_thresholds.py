"""The threshold of one label, fitted on gold for the best F1 or for a required recall."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

MIN_LABEL_ROWS = 5  # gold rows of a label; with fewer, its threshold would be fitted to noise
DEFAULT_THRESHOLD = 0.5
RECALL_FLOOR = 0.9

ThresholdGoal = Literal["f1", "recall"]


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
    from sklearn.metrics import precision_recall_curve

    if truth.sum() < MIN_LABEL_ROWS:
        return DEFAULT_THRESHOLD
    precision, recall, thresholds = precision_recall_curve(truth, probabilities)
    precision, recall = precision[:-1], recall[:-1]  # the last point has no threshold
    if goal == "recall":
        best = int(np.flatnonzero(recall >= recall_floor)[-1])
    else:
        total = precision + recall
        best = int(np.argmax(2 * precision * recall / np.where(total > 0, total, 1.0)))
    below = thresholds[best - 1] if best > 0 else max(0.0, 2 * thresholds[best] - 1.0)
    return float((thresholds[best] + below) / 2)
