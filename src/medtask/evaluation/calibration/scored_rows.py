"""Rows with gold as columns, for reliability and acceptance."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.calibration.reliability import Reliability, compute_reliability
from medtask.evaluation.statistics.intervals import MIN_PROBABILITY
from medtask.evaluation.statistics.resampling import assign_singleton_groups
from medtask.records import Answer, Value


@dataclass(frozen=True, slots=True, eq=False)
class ScoredRows:
    """Rows with gold, one entry each, in the order of rows.

    Attributes:
        rows: Row numbers from 1, [n].
        confidence: NaN without an answer or a probability, [n].
        right: Whether the answer is right, [n].
        groups: Group numbers, [n]; None if no row has a group.
        classes: Index in ``class_names`` of answers that are one name, else -1, [n].
        class_names: Names of the classes.
        log_loss: Log loss of the whole distribution, [n]; NaN if unknown.
        brier: Brier score of the whole distribution, [n]; NaN if unknown.
    """

    rows: NDArray[np.int64]
    confidence: NDArray[np.float64]
    right: NDArray[np.bool_]
    groups: NDArray[np.int64] | None
    classes: NDArray[np.int64]
    class_names: tuple[str, ...]
    log_loss: NDArray[np.float64]
    brier: NDArray[np.float64]

    def compute_reliability(self, *, seed: int = 0) -> Reliability | None:
        """Reliability of the confidences; None if no row has one."""
        # A distribution may be known although the confidence is not (an abstention); the scores are
        # then of fewer rows.
        known = ~np.isnan(self.confidence)
        whole = {"log_loss": self.log_loss, "brier": self.brier}
        scores = {} if np.isnan(self.log_loss[known]).any() else whole
        return compute_reliability(
            self.confidence, self.right, scores=scores, groups=self.groups, seed=seed
        )


class ScoredRowAccumulator:
    """Collects rows with gold; about 50 bytes each."""

    def __init__(self) -> None:
        self._rows, self._classes, self._groups = array("q"), array("q"), array("q")
        self._right = array("b")
        self._confidence, self._log_loss, self._brier = array("d"), array("d"), array("d")
        self._names: dict[str, int] = {}
        self._group_codes: dict[str, int] = {}

    def add(self, row: int, answer: Answer, right: bool, truth: Value, group: str | None) -> None:
        """Adds one row; ``right`` is whether the answer equals gold."""
        sure = answer.confidence if answer.value is not None else None
        loss, brier = compute_row_scores(answer.probabilities, truth)
        self._rows.append(row)
        self._right.append(right)
        self._confidence.append(math.nan if sure is None else sure)
        self._classes.append(
            self._names.setdefault(answer.value, len(self._names))
            if isinstance(answer.value, str)
            else -1
        )
        self._groups.append(
            -1 if group is None else self._group_codes.setdefault(group, len(self._group_codes))
        )
        self._log_loss.append(loss)
        self._brier.append(brier)

    def finish(self) -> ScoredRows:
        rows = np.array(self._rows, dtype=np.int64)
        order = np.argsort(rows, kind="stable")
        return ScoredRows(
            rows=rows[order],
            confidence=np.array(self._confidence)[order],
            right=np.array(self._right, dtype=bool)[order],
            groups=assign_singleton_groups(np.array(self._groups, dtype=np.int64)[order]),
            classes=np.array(self._classes, dtype=np.int64)[order],
            class_names=tuple(self._names),
            log_loss=np.array(self._log_loss)[order],
            brier=np.array(self._brier)[order],
        )


def compute_row_scores(
    probabilities: Mapping[str, float] | None, truth: Value
) -> tuple[float, float]:
    """Log loss and Brier score of one row; NaN if unknown. See `compute_proper_scores`."""
    if not probabilities or isinstance(truth, Mapping):
        return math.nan, math.nan
    if isinstance(truth, str):
        if truth not in probabilities:
            return math.nan, math.nan
        return -math.log(max(probabilities[truth], MIN_PROBABILITY)), sum(
            (share - (name == truth)) ** 2 for name, share in probabilities.items()
        )
    sure = [
        min(max(share if name in truth else 1 - share, MIN_PROBABILITY), 1.0)
        for name, share in probabilities.items()
    ]
    return -sum(map(math.log, sure)) / len(sure), sum((1 - share) ** 2 for share in sure) / len(
        sure
    )
