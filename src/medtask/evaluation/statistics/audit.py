"""Accuracy and frequencies of a whole table from some hundred looks, and all of its answers.

The table is cut into strata by the class of the answer and its confidence, and more rows are drawn
where the model is likely to be wrong. What the answers say of all rows is then corrected by what
the looked-at rows say of the answers: prediction-powered inference (Angelopoulos et al. 2023;
power-tuned, 2024; stratified, Fisch et al. 2024), which on a finite table is the survey
statistician's difference estimator. The answers may be as wrong as they like: the estimate is right
on average whatever they are, and only as narrow as they are good.

Intervals hold for this table, not for others like it. Normal intervals fail where errors are few,
since a stratum without an error seen looks as if it had none; here variances are shrunk towards the
one of all strata, by one event, and the interval is Wilson's for as many rows as the variance is
worth (Korn and Graubard 1998). Measured in docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from medtask.display import format_row_count, shorten
from medtask.errors import UsageError
from medtask.evaluation.calibration.reliability import BoolArray
from medtask.evaluation.presentation.blocks import ColumnStyle, Paragraph, ReportBlock, ReportTable
from medtask.evaluation.statistics.intervals import FloatArray, Metric, compute_wilson_bounds
from medtask.evaluation.statistics.refusal import Refusal

MIN_LABELLED_ROWS = 30
MIN_ROWS_PER_STRATUM = 5  # rows of a stratum
# however sure a model is, its error is not believed to be below this when looks are shared out
_MIN_ERROR_RATE = 0.1
_PRIOR_ROWS = (
    5  # rows' worth of belief in untuned inference, so that few rows do not tune it by chance
)
_LABEL_TABLE_HEAD: tuple[tuple[str, ColumnStyle], ...] = (
    ("Label", "l"),
    ("Of the answers", "n"),
    ("In truth (95 %)", "n"),
    ("The looks alone", "n"),
)
IndexArray = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stratum:
    """Rows of one answer class (None: of all the rarer classes), between two confidences, and how
    many of them are drawn.
    """

    answer: int | None
    low: float
    high: float
    rows: int
    drawn: int


@dataclass(frozen=True, slots=True, eq=False)
class AuditPlan:
    """Which rows of a table to look at. ``row_strata`` [rows]: of every row; ``sampled_rows``:
    places of the rows to look at, rising.
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


@dataclass(frozen=True, slots=True)
class Prevalence:
    """How frequent one label is in truth. ``answered``: its share among the answers; ``alone``:
    from the looked-at rows only.
    """

    label: str
    answered: float
    estimate: Metric
    alone: Metric


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What ``looks`` looks at a table of ``rows`` rows tell; ``missing`` rows were drawn and have
    no label yet. ``power``: how much of the confidences the estimate of accuracy makes use of, from
    0 to 1.
    """

    rows: int
    looks: int
    missing: int
    accuracy: Metric
    alone: Metric
    power: float
    prevalences: tuple[Prevalence, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    def format_lines(self) -> list[str]:
        """For a terminal, line by line."""
        lines = [
            (
                f"accuracy {self.accuracy} of all {format_row_count(self.rows)}, from "
                f"{self.looks:,} "
                "looks "
                f"  the looks alone: {self.alone}"
            ),
        ]
        if self.missing:
            left = f"{format_row_count(self.missing)} of the sample have no label and are left out"
            lines.append(
                f"{left}: no harm if chance chose them, but not if they were the hard ones"
            )
        width = max((len(one.label) for one in self.prevalences), default=0)
        for one in self.prevalences:
            label_text = f"{shorten(one.label, 40):<{min(width, 40)}}"
            lines.append(
                f"  {label_text}  {one.estimate}   of the answers {one.answered:.3f}   the looks "
                f"alone: {one.alone}"
            )
        return lines

    def build_blocks(self) -> list[ReportBlock]:
        """For a report."""
        blocks: list[ReportBlock] = [
            Paragraph(
                f"Accuracy {self.accuracy} over all {format_row_count(self.rows)}, estimated from "
                f"{self.looks:,} blind looks and all answers "
                f"of the model; the looks alone say {self.alone}. It holds for this table."
            )
        ]
        if self.missing:
            blocks.append(
                Paragraph(
                    f"{format_row_count(self.missing)} of the sample have no label yet and are "
                    "left out.",
                    "caution",
                )
            )
        if self.prevalences:
            lines = [
                (one.label, f"{one.answered:.3f}", str(one.estimate), str(one.alone))
                for one in self.prevalences
            ]
            blocks.append(
                ReportTable(
                    "Labels",
                    _LABEL_TABLE_HEAD,
                    lines,
                    "How frequent the labels are in truth: shares of all rows",
                )
            )
        return blocks


def plan_audit(
    classes: IndexArray, confidence: FloatArray, budget: int, seed: int = 0
) -> AuditPlan:
    """Draws ``budget`` rows to look at, or all where there are fewer: the same rows for the same
    answers and seed.

    ``classes`` [n]: the class of each answer, -1 for none; ``confidence`` [n]: NaN where it is not
    known. At least five rows are drawn of every stratum, the others by Neyman's rule as if an
    answer were right with its confidence, which is held between 0.1 and 0.9. UsageError for a
    budget below 30 and for a table without rows.
    """
    if budget < MIN_LABELLED_ROWS:
        raise UsageError(
            f"{budget:,} looks are too few for any interval",
            fix=f"give a budget of {MIN_LABELLED_ROWS} or more, such as 120",
        )
    if not len(classes):
        raise UsageError("there are no answers to look at", fix="audit a run that has answers")
    sure = np.clip(np.nan_to_num(confidence, nan=0.5), 0.0, 1.0)
    spread = np.sqrt((held := np.clip(sure, _MIN_ERROR_RATE, 1 - _MIN_ERROR_RATE)) * (1 - held))
    stratum, answers = _stratify_rows(classes, sure, spread, budget)
    rows = np.bincount(stratum).astype(np.int64)
    drawn = _allocate_sample(rows, np.bincount(stratum, spread).astype(np.float64), budget)
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(stratum == at) for at in range(len(rows))]
    chosen = [
        random.choice(mine, count, replace=False)
        for mine, count in zip(members, drawn.tolist(), strict=True)
    ]
    strata = tuple(
        Stratum(
            answers[at], float(sure[mine].min()), float(sure[mine].max()), len(mine), int(drawn[at])
        )
        for at, mine in enumerate(members)
    )
    return AuditPlan(
        budget, seed, strata, stratum, np.sort(np.concatenate(chosen)).astype(np.int64)
    )


def estimate_audit(
    plan: AuditPlan,
    labelled_rows: IndexArray,
    right: BoolArray,
    confidence: FloatArray,
    *,
    truths: BoolArray | None = None,
    answers: FloatArray | BoolArray | None = None,
    labels: Sequence[str] = (),
) -> AuditResult | Refusal:
    """Accuracy, and the share of rows to which each label applies, from labels that people gave to
    rows of the plan.

    ``labelled_rows`` [m]: places of the rows with a label, all of them drawn by the plan; ``right``
    [m]: whether the answer is; ``confidence`` [n]: of all answers, NaN where not known (a row
    without an answer: 0). ``truths`` [m, k]: whether a label applies; ``answers`` [n, k]: whether
    the answer has it, or with what probability. Refusal with fewer than 30 looks, or fewer than two
    in a stratum.
    """
    strange = np.setdiff1d(labelled_rows, plan.sampled_rows)
    if len(strange):
        raise UsageError(
            f"{format_row_count(len(strange))} with a label were not drawn",
            fix="label the rows of the sample, and no others",
        )
    estimator = _StratifiedEstimator.from_plan(plan, labelled_rows)
    if isinstance(estimator, Refusal):
        return estimator
    accuracy, power = estimator.estimate_mean(
        right.astype(np.float64), np.nan_to_num(confidence, nan=0.5)
    )
    prevalences = []
    for place, label in enumerate(labels if truths is not None and answers is not None else ()):
        assert truths is not None
        assert answers is not None
        truth, predicted = truths[:, place].astype(np.float64), answers[:, place].astype(np.float64)
        estimate, _ = estimator.estimate_mean(truth, predicted)
        prevalences.append(
            Prevalence(
                label,
                float(predicted.mean()),
                estimate,
                estimator.estimate_without_predictions(truth),
            )
        )
    return AuditResult(
        rows=plan.rows,
        looks=len(labelled_rows),
        missing=len(plan.sampled_rows) - len(labelled_rows),
        accuracy=accuracy,
        alone=estimator.estimate_without_predictions(right.astype(np.float64)),
        power=power,
        prevalences=tuple(prevalences),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _StratifiedEstimator:
    """Looked-at rows in their strata. ``labelled_rows``: of the looked-at rows; ``row_strata``
    [n]: of all rows; ``stratum_sizes``, ``labelled_counts``: by stratum.
    """

    labelled_rows: IndexArray
    row_strata: IndexArray
    stratum_sizes: FloatArray
    labelled_counts: FloatArray

    @classmethod
    def from_plan(
        cls, plan: AuditPlan, labelled_rows: IndexArray
    ) -> _StratifiedEstimator | Refusal:
        looks = np.bincount(plan.row_strata[labelled_rows], minlength=len(plan.strata))
        size = np.bincount(plan.row_strata, minlength=len(plan.strata))
        short = int((looks < np.minimum(2, size)).sum())
        if len(labelled_rows) < min(MIN_LABELLED_ROWS, plan.rows):
            return Refusal(
                "too few rows of the sample have a label for any interval",
                len(labelled_rows),
                min(MIN_LABELLED_ROWS, plan.rows),
            )
        if short:
            reason = (
                f"{short:,} of the {len(size):,} parts of the table have fewer than two "
                "labelled rows: label more of the sample"
            )
            return Refusal(reason, len(labelled_rows), len(plan.sampled_rows))
        return cls(
            labelled_rows, plan.row_strata, size.astype(np.float64), looks.astype(np.float64)
        )

    def estimate_mean(
        self, truth: FloatArray, predicted: FloatArray, power: float | None = None
    ) -> tuple[Metric, float]:
        """The mean of what is true [m], helped by what is believed of all rows [n], and the power
        with which that was done.
        """
        weight, at = (
            self.stratum_sizes / self.stratum_sizes.sum(),
            self.row_strata[self.labelled_rows],
        )
        # The variance of a stratum's part per unit variance of its rows; nothing is uncertain where
        # all were looked at.
        part = weight**2 / self.labelled_counts * (1 - self.labelled_counts / self.stratum_sizes)
        means = self._compute_stratum_means(truth)
        all_means = (
            np.bincount(self.row_strata, predicted, minlength=len(self.stratum_sizes))
            / self.stratum_sizes
        )
        off_truth, off_belief = (
            truth - means[at],
            (
                predicted[self.labelled_rows]
                - self._compute_stratum_means(predicted[self.labelled_rows])[at]
            ),
        )
        if power is None:
            power = self._tune_power(
                part, off_truth, off_belief, predicted - all_means[self.row_strata]
            )
        value = float(
            (
                weight
                * (
                    means
                    + power
                    * (all_means - self._compute_stratum_means(predicted[self.labelled_rows]))
                )
            ).sum()
        )
        variance = float(
            (part * self._compute_stratum_variances(off_truth - power * off_belief)).sum()
        )
        return self._build_estimate(min(1.0, max(0.0, value)), variance), power

    def estimate_without_predictions(self, truth: FloatArray) -> Metric:
        """The same from the looked-at rows only: their weighted mean, for as many rows as unequal
        weights leave (Kish 1965).
        """
        weight = (self.stratum_sizes / self.stratum_sizes.sum() / self.labelled_counts)[
            self.row_strata[self.labelled_rows]
        ]
        value, worth = float(np.clip((weight * truth).sum(), 0, 1)), 1 / float((weight**2).sum())
        low, high = compute_wilson_bounds(np.array([value * worth]), np.array([worth]))[
            :, 0
        ].tolist()
        return Metric(value, len(truth), low, high)

    def _compute_stratum_means(self, values: FloatArray) -> FloatArray:
        return np.asarray(
            np.bincount(
                self.row_strata[self.labelled_rows], values, minlength=len(self.stratum_sizes)
            )
            / self.labelled_counts
        )

    def _tune_power(
        self, part: FloatArray, truth: FloatArray, predicted: FloatArray, all_predicted: FloatArray
    ) -> float:
        """The power of least variance (Angelopoulos et al. 2024), pulled towards 1 as if by five
        more rows.
        """
        each = (part / np.maximum(self.labelled_counts - 1, 1))[self.row_strata[self.labelled_rows]]
        spread = np.bincount(
            self.row_strata, all_predicted**2, minlength=len(self.stratum_sizes)
        ) / np.maximum(self.stratum_sizes - 1, 1)
        prior = float((part * spread).sum()) * _PRIOR_ROWS / len(self.labelled_rows)
        shared, own = float((each * truth * predicted).sum()), float((each * predicted**2).sum())
        return (
            float(np.clip((shared + prior) / (own + prior), 0, 1)) if own + prior > 1e-15 else 1.0
        )

    def _compute_stratum_variances(self, residuals: FloatArray) -> FloatArray:
        """Each stratum's variance, shrunk by one event towards that of all rows, which itself
        counts one event more than was seen.
        """
        seen = (
            np.bincount(
                self.row_strata[self.labelled_rows], residuals**2, minlength=len(self.stratum_sizes)
            )
            * self.labelled_counts
            / np.maximum(self.labelled_counts - 1, 1)
        )
        pooled = (seen.sum() + 1) / (len(residuals) + 1)
        return np.asarray(pooled * (seen + 1) / (self.labelled_counts * pooled + 1))

    def _build_estimate(self, value: float, variance: float) -> Metric:
        from scipy.stats import norm, t

        n = len(self.labelled_rows)
        if variance <= 0:
            return Metric(value, n, value, value)  # every row was looked at
        held = (value * n + 1) / (n + 2)
        freedom = max(1, n - len(self.stratum_sizes))
        worth = held * (1 - held) / variance * float(norm.ppf(0.975) / t.ppf(0.975, freedom)) ** 2
        low, high = compute_wilson_bounds(np.array([value * worth]), np.array([worth]))[
            :, 0
        ].tolist()
        return Metric(value, n, low, high)


def _stratify_rows(
    classes: IndexArray, confidence: FloatArray, deviations: FloatArray, budget: int
) -> tuple[IndexArray, list[int | None]]:
    """The stratum of each row [n], and each stratum's class: frequent classes for themselves, then
    parts of equal expected error along the confidence.
    """
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
        mine = np.flatnonzero(cell[at] == number)
        if not len(mine):
            continue
        parts = int(
            np.clip(
                round(most * deviations[mine].sum() / deviations.sum()),
                1,
                min(6, max(1, len(mine) // MIN_ROWS_PER_STRATUM)),
            )
        )
        order = mine[np.argsort(confidence[mine], kind="stable")]
        reached = np.cumsum(deviations[order]) / deviations[order].sum()
        _, place = np.unique(
            np.minimum((reached * parts - 1e-9).astype(np.int64), parts - 1), return_inverse=True
        )
        stratum[order] = len(answers) + place.ravel()
        answers += [int(names[own[number]]) if number < len(own) else None] * (int(place.max()) + 1)
    return stratum, answers


def _allocate_sample(rows: IndexArray, deviations: FloatArray, budget: int) -> IndexArray:
    """Looks by stratum: at least five or all of it, then one by one to where it helps most;
    ``deviations`` is summed over a stratum's rows.
    """
    sample_sizes = np.minimum(rows, MIN_ROWS_PER_STRATUM)
    while sample_sizes.sum() < min(budget, rows.sum()):
        sample_sizes[
            np.argmax(np.where(sample_sizes < rows, deviations / (sample_sizes + 0.5), -1.0))
        ] += 1
    return sample_sizes
