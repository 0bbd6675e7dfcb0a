"""Estimates accuracy and label frequencies of a table from about a hundred labelled rows.

The table is divided into strata by the class of the answer and its confidence, and more rows are
drawn where the model is likely to be wrong. The mean over all answers is corrected by the labelled
rows: prediction-powered inference (Angelopoulos et al. 2023; power-tuned, 2024; stratified, Fisch
et al. 2024), which on a finite table is the difference estimator of survey statistics. The estimate
is unbiased for any answers; its width depends on their quality.

Intervals hold for this table, not for similar tables. Normal intervals fail with few errors,
because a stratum without an observed error has no variance. Here variances are shrunk towards the
pooled variance by one event, and the interval is Wilson's for the effective number of rows (Korn
and Graubard 1998). docs/explanation/guarantees.md has measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from medtask.display import format_row_count
from medtask.errors import UsageError
from medtask.evaluation.statistics.audit_plan import MIN_LABELLED_ROWS, AuditPlan, IndexArray
from medtask.evaluation.statistics.intervals import (
    BoolArray,
    FloatArray,
    Metric,
    compute_wilson_interval,
)
from medtask.evaluation.statistics.refusal import Refusal

_PRIOR_ROWS = (
    # prior weight of untuned inference, in rows, so that few rows do not tune the power by chance
    5
)


@dataclass(frozen=True, slots=True)
class Prevalence:
    """Frequency of one label: its share of the answers, the estimate, and labelled rows alone."""

    label: str
    answered: float
    estimate: Metric
    alone: Metric


@dataclass(frozen=True, slots=True)
class AuditResult:
    """The result of an audit.

    Attributes:
        rows: Number of rows of the table.
        looks: Number of labelled rows.
        missing: Number of sampled rows without a label.
        accuracy: Estimated accuracy of all answers.
        alone: Accuracy from the labelled rows alone.
        power: The weight of the confidences in the estimate, from 0 to 1.
        prevalences: Frequencies of the labels.
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


@dataclass(frozen=True, slots=True, eq=False)
class LabelColumns:
    """Labels whose frequencies are estimated.

    Attributes:
        names: The k labels.
        truths: Whether each label applies to each labelled row, [m, k].
        answers: Whether each answer has the label, or the label's probability, [n, k].
    """

    names: Sequence[str]
    truths: BoolArray
    answers: FloatArray | BoolArray


def estimate_audit(
    plan: AuditPlan,
    labelled_rows: IndexArray,
    right: BoolArray,
    confidence: FloatArray,
    columns: LabelColumns | None = None,
) -> AuditResult | Refusal:
    """Estimates accuracy, and the frequency of each label, from labels of sampled rows.

    Args:
        plan: The sample.
        labelled_rows: Indices of the m rows with a label, all of them sampled by the plan, [m].
        right: Whether the answer of each is right, [m].
        confidence: Confidence of all answers, [n]; NaN if unknown, 0 without an answer.
        columns: Labels whose frequencies are estimated.

    Returns:
        The result, or a refusal with fewer than 30 labelled rows, or fewer than two in a stratum.

    Raises:
        UsageError: If a labelled row was not sampled.
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
    for place, label in enumerate(columns.names if columns else ()):
        assert columns is not None
        truth = columns.truths[:, place].astype(np.float64)
        predicted = columns.answers[:, place].astype(np.float64)
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
    """Estimates means from labelled rows.

    Attributes:
        labelled_rows: Indices of labelled rows, [m].
        row_strata: Stratum of every row, [n].
        stratum_sizes: Rows by stratum.
        labelled_counts: Labelled rows by stratum.
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

    @property
    def labelled_strata(self) -> IndexArray:
        """Stratum of every labelled row, [m]."""
        return self.row_strata[self.labelled_rows]

    def estimate_mean(
        self, truth: FloatArray, predicted: FloatArray, power: float | None = None
    ) -> tuple[Metric, float]:
        """The mean of ``truth`` [m], given predictions for all rows [n], and the power used."""
        weight = self.stratum_sizes / self.stratum_sizes.sum()
        at = self.labelled_strata
        # The variance of each stratum's term per unit variance of its rows; 0 if all its rows are
        # labelled.
        part = weight**2 / self.labelled_counts * (1 - self.labelled_counts / self.stratum_sizes)
        means = self._compute_stratum_means(truth)
        all_means = self._sum_by_stratum(self.row_strata, predicted) / self.stratum_sizes
        labelled_means = self._compute_stratum_means(predicted[self.labelled_rows])
        off_truth = truth - means[at]
        off_belief = predicted[self.labelled_rows] - labelled_means[at]
        if power is None:
            power = self._tune_power(
                part, off_truth, off_belief, predicted - all_means[self.row_strata]
            )
        value = float((weight * (means + power * (all_means - labelled_means))).sum())
        variance = float(
            (part * self._compute_stratum_variances(off_truth - power * off_belief)).sum()
        )
        return self._build_estimate(min(1.0, max(0.0, value)), variance), power

    def estimate_without_predictions(self, truth: FloatArray) -> Metric:
        """The weighted mean of the labelled rows, with the effective sample size of Kish 1965."""
        weights = self.stratum_sizes / self.stratum_sizes.sum() / self.labelled_counts
        weight = weights[self.labelled_strata]
        value, worth = float(np.clip((weight * truth).sum(), 0, 1)), 1 / float((weight**2).sum())
        return Metric(value, len(truth), *compute_wilson_interval(value * worth, worth))

    def _compute_stratum_means(self, values: FloatArray) -> FloatArray:
        return self._sum_by_stratum(self.labelled_strata, values) / self.labelled_counts

    def _sum_by_stratum(self, strata: IndexArray, values: FloatArray) -> FloatArray:
        sums = np.bincount(strata, values, minlength=len(self.stratum_sizes))
        return np.asarray(sums, dtype=np.float64)

    def _tune_power(
        self, part: FloatArray, truth: FloatArray, predicted: FloatArray, all_predicted: FloatArray
    ) -> float:
        """The power of minimum variance (Angelopoulos et al. 2024), shrunk towards 1 with a prior
        weight of five rows.
        """
        each = (part / np.maximum(self.labelled_counts - 1, 1))[self.labelled_strata]
        spread = self._sum_by_stratum(self.row_strata, all_predicted**2) / np.maximum(
            self.stratum_sizes - 1, 1
        )
        prior = float((part * spread).sum()) * _PRIOR_ROWS / len(self.labelled_rows)
        shared, own = float((each * truth * predicted).sum()), float((each * predicted**2).sum())
        return (
            float(np.clip((shared + prior) / (own + prior), 0, 1)) if own + prior > 1e-15 else 1.0
        )

    def _compute_stratum_variances(self, residuals: FloatArray) -> FloatArray:
        """Variances by stratum, shrunk by one event towards the pooled variance plus one event."""
        variances = (
            self._sum_by_stratum(self.labelled_strata, residuals**2)
            * self.labelled_counts
            / np.maximum(self.labelled_counts - 1, 1)
        )
        pooled = (variances.sum() + 1) / (len(residuals) + 1)
        return np.asarray(pooled * (variances + 1) / (self.labelled_counts * pooled + 1))

    def _build_estimate(self, value: float, variance: float) -> Metric:
        from scipy.stats import norm, t

        n = len(self.labelled_rows)
        if variance <= 0:
            return Metric(value, n, value, value)  # every row is labelled
        smoothed = (value * n + 1) / (n + 2)
        freedom = max(1, n - len(self.stratum_sizes))
        worth = (
            smoothed
            * (1 - smoothed)
            / variance
            * float(norm.ppf(0.975) / t.ppf(0.975, freedom)) ** 2
        )
        return Metric(value, n, *compute_wilson_interval(value * worth, worth))
