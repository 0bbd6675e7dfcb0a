"""Metrics of a judge's grades of free text, and the judge's agreement with people.

Every metric is over the judged rows; a failed judgement is not a grade. Without people's grades the
judge's error is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from medtask.display import format_count, format_row_count
from medtask.evaluation.statistics.intervals import (
    Metric,
    ResamplingUnits,
    estimate_clustered_proportion,
    estimate_ratio,
)
from medtask.evaluation.statistics.judge_correction import (
    MIN_GRADES,
    MIN_GRADES_PER_CLASS,
    correct_mean,
    correct_proportion,
)
from medtask.evaluation.statistics.kappa import estimate_kappa
from medtask.evaluation.statistics.refusal import Refusal
from medtask.evaluation.statistics.resampling import build_resampling_units
from medtask.records import LeftOut

# Landis and Koch 1977 call agreement up to 0.2 slight. Below it, the result would depend mostly on
# the correction: with sensitivity 0.6 and specificity 0.6 the interval is five times as wide as
# that of a judge without errors.
MIN_KAPPA = 0.2
_GROUPED_REASON = (
    "rows that belong together (of one patient, say) are not independent, as the "
    "correction takes them to be"
)
_NO_FIT_REASON = (
    "no true share fits both the judge's error rates and its other grades: were the rows "
    "that people graded drawn at random?"
)

_OUTSIDE_REASON = (
    "the corrected mean grade is outside of the scale: were the rows that people graded drawn at "
    "random?"
)


@dataclass(frozen=True, slots=True)
class GradeScale:
    """Grades from worst to best with their points.

    ``passing_index`` is the lowest acceptable grade.
    """

    names: tuple[str, ...]
    points: tuple[float, ...]
    passing_index: int


@dataclass(frozen=True, slots=True)
class GradedAnswer:
    """One answer.

    Attributes:
        grade: Index on the scale; None if the judgement failed.
        expected_grade: Mean of the grades weighted by their probabilities; None if unknown.
        human_grade: Index on the scale; None if no person graded the answer.
        group: Group of the row.
    """

    grade: int | None
    expected_grade: float | None = None
    human_grade: int | None = None
    group: str | None = None


@dataclass(frozen=True, slots=True)
class MissingJudgements:
    """Rows without a judgement: without an answer, without a reference, or failed."""

    unanswered: int = 0
    unreferenced: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Comparison of the judge with people.

    Attributes:
        n: Number of rows graded by both.
        lost: Number of people's grades of rows without a judgement.
        sensitivity: Share of answers accepted by people that the judge accepts.
        specificity: Share of answers rejected by people that the judge rejects.
        kappa: Kappa of the grades with quadratic weights.
        kappa_acceptable: Kappa of acceptable or not.
        human_share: Share of acceptable answers from people's grades alone.
        human_mean: Mean of people's grades alone.
        share: Corrected share of acceptable answers, or why there is none.
        mean: Corrected mean grade, or why there is none.
    """

    n: int
    lost: int
    sensitivity: Metric | None
    specificity: Metric | None
    kappa: Metric | None
    kappa_acceptable: Metric | None
    human_share: Metric | None
    human_mean: Metric | None
    share: Metric | Refusal
    mean: Metric | Refusal

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dict; reasons for a refusal are under ``no_share`` and ``no_mean``."""
        corrected = {"share": self.share, "mean": self.mean}
        figures = {
            name: asdict(one) if isinstance(one, Metric) else None
            for name, one in corrected.items()
        }
        reasons = {
            f"no_{name}": one.reason if isinstance(one, Refusal) else None
            for name, one in corrected.items()
        }
        return {**asdict(self), **figures, **reasons}


@dataclass(frozen=True, slots=True)
class JudgeMetrics:
    """Metrics of a judge's grades.

    Attributes:
        scale: The grades.
        n: Number of judged rows.
        missing: Rows without a judgement.
        grades: Rows by grade.
        mean: Mean of the likeliest grades.
        expected: Mean of the expected grades, over the rows that have them.
        acceptable: Share of rows with a passing grade.
        human_agreement: Agreement with people; None without people's grades.
        left_out: Judged rows that are not new to the answering model, by reason: no metric is based
            on them.
    """

    scale: GradeScale
    n: int
    missing: MissingJudgements
    grades: Mapping[str, int]
    mean: Metric | None
    expected: Metric | None
    acceptable: Metric | None
    human_agreement: JudgeAgreement | None
    left_out: Mapping[LeftOut, int] = field(default_factory=dict)

    @property
    def missing_rate(self) -> float | None:
        """Share of the requested judgements that failed; None if none was requested."""
        asked = self.n + self.missing.failed
        return self.missing.failed / asked if asked else None

    def to_json(self) -> dict[str, Any]:
        """Returns a plain dict without record text."""
        metrics = {"mean": self.mean, "expected": self.expected, "acceptable": self.acceptable}
        return {
            "n": self.n,
            "missing": asdict(self.missing),
            "missing_rate": self.missing_rate,
            "left_out": {str(reason): rows for reason, rows in self.left_out.items()},
            "grades": dict(self.grades),
            "passing": self.scale.names[self.scale.passing_index],
            "metrics": {name: asdict(metric) for name, metric in metrics.items() if metric},
            "against_people": self.human_agreement.to_json() if self.human_agreement else None,
        }


def compute_judge_metrics(
    scale: GradeScale,
    rows: Sequence[GradedAnswer],
    *,
    unanswered: int = 0,
    unreferenced: int = 0,
    lost: int = 0,
) -> JudgeMetrics:
    """Computes the metrics of a judge.

    Args:
        scale: The grades.
        rows: All answers that were judged.
        unanswered: Number of rows without an answer.
        unreferenced: Number of rows without a reference.
        lost: Number of people's grades of other answers.
    """
    judged = [row for row in rows if row.grade is not None]
    units = _build_units(judged)
    points = np.array([scale.points[row.grade] for row in judged if row.grade is not None])
    passes = np.array(
        [row.grade is not None and row.grade >= scale.passing_index for row in judged],
        dtype=np.int64,
    )
    with_expected = [row for row in judged if row.expected_grade is not None]
    human_grades = lost + sum(row.human_grade is not None for row in rows)
    return JudgeMetrics(
        scale=scale,
        n=len(judged),
        missing=MissingJudgements(unanswered, unreferenced, len(rows) - len(judged)),
        grades={
            name: sum(row.grade == place for row in judged)
            for place, name in enumerate(scale.names)
        },
        mean=estimate_group_mean(points, units),
        expected=estimate_group_mean(
            np.array([row.expected_grade for row in with_expected]), _build_units(with_expected)
        ),
        acceptable=estimate_clustered_proportion(passes, np.ones(len(judged)), units),
        human_agreement=_compare_with_people(scale, judged, human_grades) if human_grades else None,
    )


def _compare_with_people(
    scale: GradeScale, judged_rows: Sequence[GradedAnswer], human_grades: int
) -> JudgeAgreement:
    both = [row for row in judged_rows if row.human_grade is not None]
    units = _build_units(both)
    truth = np.array([row.human_grade for row in both], dtype=np.int64)
    grade = np.array([row.grade for row in both], dtype=np.int64)
    acceptable, passes = truth >= scale.passing_index, grade >= scale.passing_index
    sensitivity, specificity = (
        estimate_clustered_proportion(graded, true, units)
        for graded, true in ((passes, acceptable), (~passes, ~acceptable))
    )
    kappa = estimate_kappa(acceptable.tolist(), passes.tolist(), units)
    share: Metric | Refusal = Refusal(_GROUPED_REASON, len(both))
    mean: Metric | Refusal = share
    if _build_units(judged_rows).n_groups is None:
        others = [row for row in judged_rows if row.human_grade is None]
        share = _refuse_correction(
            acceptable, sensitivity, specificity, kappa
        ) or _correct_proportion(scale, acceptable, passes, others)
        mean = _correct_mean(scale, both, others)
    return JudgeAgreement(
        n=len(both),
        lost=human_grades - len(both),
        sensitivity=sensitivity,
        specificity=specificity,
        kappa=estimate_kappa(truth.tolist(), grade.tolist(), units, quadratic=True),
        kappa_acceptable=kappa,
        human_share=estimate_clustered_proportion(acceptable, np.ones(len(both)), units),
        human_mean=estimate_group_mean(
            np.array([scale.points[place] for place in truth.tolist()]), units
        ),
        share=share,
        mean=mean,
    )


def _refuse_correction(
    acceptable: np.ndarray,
    sensitivity: Metric | None,
    specificity: Metric | None,
    kappa: Metric | None,
) -> Refusal | None:
    """Why a share cannot be corrected for such a judge; None if it can."""
    n, accepted = len(acceptable), int(acceptable.sum())
    if min(accepted, n - accepted) < MIN_GRADES_PER_CLASS:
        counted = (
            f"{format_count(accepted)} acceptable and {format_count(n - accepted)} other answers"
        )
        return Refusal(
            f"people have graded {counted}, and it takes {MIN_GRADES_PER_CLASS} of each to know "
            "how the judge errs",
            n,
        )
    assert sensitivity and specificity
    if sensitivity.value + specificity.value <= 1:
        return Refusal(
            "the judge accepts bad answers at least as often as good ones: nothing can be "
            "concluded from its grades",
            n,
        )
    if kappa is None or kappa.value < MIN_KAPPA:
        kappa_text = "unknown" if kappa is None else f"{kappa.value:.2f}"
        return Refusal(
            f"the judge hardly agrees with people (kappa {kappa_text}, it takes {MIN_KAPPA}): a "
            "correction would be unreliable",
            n,
        )
    if kappa.low is not None and kappa.low <= 0:
        return Refusal(
            f"on {format_row_count(n)} the judge's agreement with people (kappa {kappa}) cannot be "
            "distinguished from chance",
            n,
        )
    return None


def _correct_proportion(
    scale: GradeScale,
    acceptable: np.ndarray,
    passes: np.ndarray,
    judge_only: Sequence[GradedAnswer],
) -> Metric | Refusal:
    """The corrected share of acceptable answers.

    ``acceptable`` and ``passes`` [n] are the answers that people and the judge accept.
    ``judge_only`` are answers graded by the judge alone.
    """
    if not judge_only:
        return Refusal(
            "people have graded every judged row: their own share is the answer", len(acceptable)
        )
    judged_acceptable = (
        sum(row.grade is not None and row.grade >= scale.passing_index for row in judge_only),
        len(judge_only),
    )
    share = correct_proportion(
        judged_acceptable,
        (int(passes[acceptable].sum()), int(acceptable.sum())),
        (int((~passes[~acceptable]).sum()), int((~acceptable).sum())),
    )
    return share or Refusal(_NO_FIT_REASON, len(acceptable))


def _correct_mean(
    scale: GradeScale, human_graded: Sequence[GradedAnswer], judge_only: Sequence[GradedAnswer]
) -> Metric | Refusal:
    """The corrected mean grade, or why there is none."""
    if len(human_graded) < MIN_GRADES:
        reason = (
            f"{format_row_count(len(human_graded))} graded by people: it takes {MIN_GRADES} for a "
            "valid interval"
        )
        return Refusal(reason, len(human_graded), MIN_GRADES)
    if not judge_only:
        return Refusal(
            "people have graded every judged row: their own mean is the answer", len(human_graded)
        )
    human = [scale.points[row.human_grade] for row in human_graded if row.human_grade is not None]
    mean = correct_mean(
        human,
        [_get_points(scale, row) for row in human_graded],
        [_get_points(scale, row) for row in judge_only],
    )
    assert mean is not None  # there are rows
    least, most = min(scale.points), max(scale.points)
    low, high = mean.low, mean.high
    if low is not None and high is not None:
        if low > most or high < least:  # limited to the scale, it would look certain
            return Refusal(_OUTSIDE_REASON, len(human_graded))
        low, high = max(least, low), min(most, high)
    return Metric(min(most, max(least, mean.value)), mean.n, low, high)


def _get_points(scale: GradeScale, row: GradedAnswer) -> float:
    assert row.grade is not None
    return row.expected_grade if row.expected_grade is not None else scale.points[row.grade]


def _build_units(rows: Sequence[GradedAnswer]) -> ResamplingUnits:
    return build_resampling_units([row.group for row in rows], len(rows))


def estimate_group_mean(values: np.ndarray, units: ResamplingUnits) -> Metric | None:
    return estimate_ratio(values, np.ones(len(values)), units) if len(values) else None
