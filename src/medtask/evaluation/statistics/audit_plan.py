"""Selects the rows of a table to label for an audit: a stratified random sample."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.errors import UsageError
from medtask.evaluation.statistics.intervals import FloatArray

MIN_LABELLED_ROWS = 30
IndexArray = NDArray[np.int64]
MIN_ROWS_PER_STRATUM = 5  # minimum number of sampled rows per stratum

# lower bound of the error rate that is assumed of any row when the sample is allocated
_MIN_ERROR_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Stratum:
    """Rows of one answer class (None: all rarer classes) in a range of confidences."""

    answer: int | None
    low: float
    high: float
    rows: int
    drawn: int


@dataclass(frozen=True, slots=True, eq=False)
class AuditPlan:
    """The sample.

    ``row_strata`` is the stratum of every row, [n]; ``sampled_rows`` are ascending indices.
    """

    budget: int
    seed: int
    strata: tuple[Stratum, ...]
    row_strata: IndexArray
    sampled_rows: IndexArray

    @property
    def rows(self) -> int:
        return len(self.row_strata)

    def to_json(self) -> dict[str, object]:
        return {
            "budget": self.budget,
            "seed": self.seed,
            "rows": self.rows,
            "strata": [asdict(one) for one in self.strata],
            "drawn": self.sampled_rows.tolist(),
        }


def plan_audit(
    classes: IndexArray, confidence: FloatArray, budget: int, seed: int = 0
) -> AuditPlan:
    """Draws a stratified random sample of rows to label.

    Every stratum gets at least five rows, the others by Neyman allocation, assuming that an answer
    were right with its confidence, limited to 0.1 to 0.9. The same answers and seed give the same
    rows.

    Args:
        classes: Class of each answer, [n]; -1 for none.
        confidence: Confidence of each answer, [n]; NaN if unknown.
        budget: Number of rows to draw, at least 30.
        seed: Seed of the draw.

    Raises:
        UsageError: If the budget is below 30 or there are no rows.
    """
    if budget < MIN_LABELLED_ROWS:
        raise UsageError(
            f"{budget:,} rows are too few for an interval",
            fix=f"give a budget of {MIN_LABELLED_ROWS} or more, such as 120",
        )
    if not len(classes):
        raise UsageError("there are no answers to audit", fix="audit a run that has answers")
    sure = np.clip(np.nan_to_num(confidence, nan=0.5), 0.0, 1.0)
    spread = np.sqrt((error := np.clip(sure, _MIN_ERROR_RATE, 1 - _MIN_ERROR_RATE)) * (1 - error))
    stratum, answers = _stratify_rows(classes, sure, spread, budget)
    rows = np.bincount(stratum).astype(np.int64)
    drawn = _allocate_sample(rows, np.bincount(stratum, spread).astype(np.float64), budget)
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(stratum == at) for at in range(len(rows))]
    chosen = [
        random.choice(indices, count, replace=False)
        for indices, count in zip(members, drawn.tolist(), strict=True)
    ]
    strata = tuple(
        Stratum(
            answers[at],
            float(sure[indices].min()),
            float(sure[indices].max()),
            len(indices),
            int(drawn[at]),
        )
        for at, indices in enumerate(members)
    )
    return AuditPlan(
        budget, seed, strata, stratum, np.sort(np.concatenate(chosen)).astype(np.int64)
    )


def _stratify_rows(
    classes: IndexArray, confidence: FloatArray, deviations: FloatArray, budget: int
) -> tuple[IndexArray, list[int | None]]:
    """The stratum of each row [n], and each stratum's class; expected errors are equal."""
    most = budget // (2 * MIN_ROWS_PER_STRATUM)
    names, at, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    at = at.ravel()
    frequent = np.argsort(-sizes, kind="stable")[: max(1, most // 2)]
    own = [
        int(place)
        for place in frequent
        if sizes[place] * budget >= MIN_ROWS_PER_STRATUM * len(classes)
    ]
    cell = np.full(len(names), len(own))
    cell[own] = np.arange(len(own))
    stratum, answers = np.zeros(len(classes), dtype=np.int64), list[int | None]()
    for number in range(len(own) + 1):
        indices = np.flatnonzero(cell[at] == number)
        if not len(indices):
            continue
        parts = int(
            np.clip(
                round(most * deviations[indices].sum() / deviations.sum()),
                1,
                min(6, max(1, len(indices) // MIN_ROWS_PER_STRATUM)),
            )
        )
        order = indices[np.argsort(confidence[indices], kind="stable")]
        reached = np.cumsum(deviations[order]) / deviations[order].sum()
        _, place = np.unique(
            np.minimum((reached * parts - 1e-9).astype(np.int64), parts - 1), return_inverse=True
        )
        stratum[order] = len(answers) + place.ravel()
        answers += [int(names[own[number]]) if number < len(own) else None] * (int(place.max()) + 1)
    return stratum, answers


def _allocate_sample(rows: IndexArray, deviations: FloatArray, budget: int) -> IndexArray:
    """Rows per stratum: at least five, then one by one where they reduce the variance most."""
    sample_sizes = np.minimum(rows, MIN_ROWS_PER_STRATUM)
    while sample_sizes.sum() < min(budget, rows.sum()):
        sample_sizes[
            np.argmax(np.where(sample_sizes < rows, deviations / (sample_sizes + 0.5), -1.0))
        ] += 1
    return sample_sizes
