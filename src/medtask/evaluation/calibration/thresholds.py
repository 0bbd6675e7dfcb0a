"""Thresholds of labels, fitted on gold for the best F1 or for a required recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.statistics.label_thresholds import (
    MIN_LABEL_ROWS,
    RECALL_FLOOR,
    ThresholdGoal,
    fit_thresholds,
)
from medtask.evaluation.statistics.resampling import FOLDS


@dataclass(frozen=True, slots=True)
class FittedThresholds:
    """Thresholds by label.

    Attributes:
        overall: Fitted on all rows with gold, for rows without gold.
        folds: ``folds[k]`` is fitted on all rows but those of fold k, for the rows of fold k. Rows
            of a group are in one fold.
        rows: Number of rows with gold.
        unfitted_labels: Labels with too few gold rows, which keep 0.5.
    """

    overall: Mapping[str, float]
    folds: tuple[Mapping[str, float], ...]
    rows: int
    unfitted_labels: tuple[str, ...]

    def get_thresholds(
        self, row: int, has_gold: bool, group: str | None = None
    ) -> Mapping[str, float]:
        """The thresholds for one row."""
        return self.folds[assign_fold(row, group)] if has_gold else self.overall


@dataclass(slots=True)
class ThresholdFitter:
    """Collects rows with gold; 9 bytes per row and label."""

    labels: Sequence[str]
    goal: ThresholdGoal
    recall_floor: float = RECALL_FLOOR
    _probabilities: list[NDArray[np.float64]] = field(default_factory=list)
    _truth: list[NDArray[np.bool_]] = field(default_factory=list)
    _folds: list[int] = field(default_factory=list)

    def add(
        self,
        row: int,
        probabilities: Mapping[str, float],
        gold: Sequence[str],
        group: str | None = None,
    ) -> None:
        """Adds one row: the probability of each label, the gold labels, and the row's group."""
        self._probabilities.append(np.array([probabilities[name] for name in self.labels]))
        self._truth.append(np.array([name in gold for name in self.labels]))
        self._folds.append(assign_fold(row, group))

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
        fitted = fit_thresholds(probabilities, truth, self.goal, self.recall_floor)
        return dict(zip(self.labels, fitted, strict=True))


def assign_fold(row: int, group: str | None = None) -> int:
    """The fold of a row, or of its group: pseudo-random, independent of the rest of the table."""
    unit = group.encode("utf-8", "surrogatepass") if group else row.to_bytes(8, "big")
    return blake2b(unit, digest_size=2).digest()[0] % FOLDS
