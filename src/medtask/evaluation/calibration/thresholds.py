"""Thresholds of labels, fitted on gold for the best F1 or for a required recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.statistics.resampling import FOLDS

MIN_LABEL_ROWS = 5  # gold rows of a label; with fewer, its threshold would be fitted to noise
DEFAULT_THRESHOLD = 0.5

ThresholdGoal = Literal["f1", "recall"]


@dataclass(frozen=True, slots=True)
class FittedThresholds:
    """Thresholds by label.

    Attributes:
        overall: Fitted on all rows with gold, for rows without gold.
        folds: ``folds[k]`` is fitted on all rows but those of fold k, for the rows of fold k.
        rows: Number of rows with gold.
        unfitted_labels: Labels with too few gold rows, which keep 0.5.
    """

    overall: Mapping[str, float]
    folds: tuple[Mapping[str, float], ...]
    rows: int
    unfitted_labels: tuple[str, ...]

    def get_thresholds(self, row: int, has_gold: bool) -> Mapping[str, float]:
        """The thresholds for one row."""
        return self.folds[assign_fold(row)] if has_gold else self.overall


@dataclass(slots=True)
class ThresholdFitter:
    """Collects rows with gold; 9 bytes per row and label."""

    labels: Sequence[str]
    goal: ThresholdGoal
    recall_floor: float = 0.9
    _probabilities: list[NDArray[np.float64]] = field(default_factory=list)
    _truth: list[NDArray[np.bool_]] = field(default_factory=list)
    _folds: list[int] = field(default_factory=list)

    def add(self, row: int, probabilities: Mapping[str, float], gold: Sequence[str]) -> None:
        """Adds one row: the probability of each label, and the gold labels."""
        self._probabilities.append(np.array([probabilities[name] for name in self.labels]))
        self._truth.append(np.array([name in gold for name in self.labels]))
        self._folds.append(assign_fold(row))

    def finish(self) -> FittedThresholds:
        count = len(self.labels)
        probabilities = np.array(self._probabilities).reshape(-1, count)
        truth = np.array(self._truth, dtype=bool).reshape(-1, count)
        folds = np.array(self._folds, dtype=int)
        parts = tuple(
            self._fit_labels(probabilities[folds != fold], truth[folds != fold])
            for fold in range(FOLDS)
        )
        unfitted_labels = tuple(
            name
            for name, rows in zip(self.labels, truth.sum(axis=0), strict=True)
            if rows < MIN_LABEL_ROWS
        )
        return FittedThresholds(
            self._fit_labels(probabilities, truth), parts, len(folds), unfitted_labels
        )

    def _fit_labels(
        self, probabilities: NDArray[np.float64], truth: NDArray[np.bool_]
    ) -> dict[str, float]:
        columns = zip(self.labels, probabilities.T, truth.T, strict=True)
        return {
            name: fit_threshold(share, right, self.goal, self.recall_floor)
            for name, share, right in columns
        }


def assign_fold(row: int) -> int:
    """The fold of a row, pseudo-random and independent of the rest of the table."""
    return blake2b(row.to_bytes(8, "big"), digest_size=2).digest()[0] % FOLDS


def fit_threshold(
    probabilities: NDArray[np.float64],
    truth: NDArray[np.bool_],
    goal: ThresholdGoal,
    recall_floor: float,
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
