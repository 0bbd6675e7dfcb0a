"""Compares answers with gold, row by row, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from medtask.evaluation.calibration.reliability import Reliability
from medtask.evaluation.calibration.scored_rows import ScoredRowAccumulator, ScoredRows
from medtask.evaluation.kinds.protocols import (
    MAX_SAMPLE_CHARACTERS,
    SAMPLE_SIZE,
    EvaluationKind,
    GoldSample,
    GradedRow,
    Grader,
    KindEvaluation,
    compute_sample_key,
)
from medtask.evaluation.presentation.formatting import count_left_out, format_value
from medtask.evaluation.presentation.report_rows import (
    ReportRow,
    RowStyle,
    TopK,
    build_report_row,
    cut_text,
)
from medtask.records import AnsweredRow, LeftOut, Option, Status, Value

MAX_ERROR_ROWS = 30
MAX_UNKNOWN_VALUES = 100

GoldVerdict = Literal["right", "wrong", "unknown"]
_GOLD_VERDICTS: Mapping[bool | None, GoldVerdict] = {True: "right", False: "wrong", None: "unknown"}


@dataclass(frozen=True, slots=True, eq=False)
class GoldSummary:
    """Comparison of a run's answers with gold.

    Attributes:
        evaluation: Metrics of the kind; None if no row has usable gold.
        mean_confidence: Mean over answered rows with gold and a confidence.
        missing: Number of rows without gold.
        unknown: Number of rows with invalid gold.
        unknown_values: The most frequent invalid values.
        left_out: Number of rows with valid gold that are not new to the model, by reason.
        errors: Wrong rows to review, such as the most confident ones.
        sample: A random sample of the rows with gold.
        scored_rows: All rows with gold, as columns.
        reliability: Calibration of the confidences; None without confidences.
    """

    evaluation: KindEvaluation | None
    mean_confidence: float | None
    missing: int
    unknown: int
    unknown_values: Mapping[str, int]
    left_out: Mapping[LeftOut, int]
    errors: tuple[ReportRow, ...]
    sample: GoldSample
    scored_rows: ScoredRows
    reliability: Reliability | None

    @property
    def rows(self) -> int:
        """Number of rows with usable gold."""
        return (
            max((figure.n for figure in self.evaluation.metrics.values() if figure), default=0)
            if self.evaluation
            else 0
        )

    def counts_to_json(self) -> dict[str, object]:
        """The numbers of rows that metrics use or leave out, as a plain dict."""
        return {
            "rows": self.rows,
            "missing": self.missing,
            "unknown": self.unknown,
            "left_out": {str(reason): rows for reason, rows in self.left_out.items()},
        }

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text.

        Invalid gold values are left out, because they may be text.
        """
        return {
            **self.counts_to_json(),
            "mean_confidence": self.mean_confidence,
            **(self.evaluation.to_json() if self.evaluation else {"quality": None}),
            "reliability": self.reliability.to_json() if self.reliability else None,
            "errors": [case.to_json() for case in self.errors],
        }


class GoldAccumulator:
    """Compares answers with gold for a summary."""

    def __init__(self, kind: EvaluationKind, grader: Grader, seed: int, style: RowStyle) -> None:
        self._kind, self._grader, self._seed, self._style = kind, grader, seed, style
        self._missing = self._unknown = self._confidence_count = 0
        self._confidence_sum = 0.0
        self._unknown_values: Counter[str] = Counter()
        self._left_out: Counter[LeftOut] = Counter()
        self._errors: TopK[ReportRow] = TopK(MAX_ERROR_ROWS)
        self._scored_rows = ScoredRowAccumulator()
        self._sample: TopK[tuple[str, Any, Any, tuple[Option, ...], str | None]] = TopK(SAMPLE_SIZE)

    def parse_gold(self, row: AnsweredRow) -> Value | None:
        """The gold of a row that counts; None if it is missing, not valid or left out, which is
        counted.
        """
        gold = row.gold
        if gold is None or gold in ("", {}):
            self._missing += 1
            return None
        truth = self._grader.parse_gold(gold, row.options)
        if truth is None:
            self._unknown += 1
            value = cut_text(format_value(gold), 80)
            if value in self._unknown_values or len(self._unknown_values) < MAX_UNKNOWN_VALUES:
                self._unknown_values[value] += 1
        elif row.left_out:
            self._left_out[row.left_out] += 1
        return truth if row.answer_counts else None

    def is_right(self, status: Status, value: Value | None, truth: Value) -> bool | None:
        return self._grader.is_right(self._grader.comparable_value(status, value), truth)

    def add(self, row: AnsweredRow, truth: Value) -> GoldVerdict:
        """Grade one answer; returns "unknown" if the kind is not graded right or wrong."""
        answer, options, group = row.answer, row.options, row.group
        predicted = self._grader.comparable_value(answer.status, answer.value)
        grade = self._grader.add(GradedRow(predicted, truth, answer, group, options))
        if row.left_out is None:
            self._scored_rows.add(row.row, answer, bool(grade.right), truth, group)
        self._sample.push(
            (-float(compute_sample_key(answer.record_id, self._seed)), -float(row.row)),
            lambda: (
                cut_text(row.text, MAX_SAMPLE_CHARACTERS),
                _truncate_value(truth),
                _truncate_value(predicted),
                tuple(options),
                group or None,
            ),
        )
        if answer.value is None:
            return "wrong"
        if answer.confidence is not None and row.left_out is None:
            self._confidence_count += 1
            self._confidence_sum += answer.confidence
        if not grade.right:
            self._errors.push(
                (grade.review_priority, -float(row.row)),
                lambda: build_report_row(
                    row.row, answer, row.text, truth, style=self._style, options=options
                ),
            )
        return _GOLD_VERDICTS[grade.right]

    def finish(self) -> GoldSummary:
        columns = tuple(zip(*self._sample.to_sorted(), strict=True))
        sample = GoldSample(*columns) if columns else GoldSample()
        marks = self._scored_rows.finish()
        return GoldSummary(
            evaluation=self._grader.finish(sample),
            mean_confidence=self._confidence_sum / self._confidence_count
            if self._confidence_count
            else None,
            missing=self._missing,
            unknown=self._unknown,
            unknown_values=dict(self._unknown_values.most_common(10)),
            left_out=count_left_out(self._left_out.elements()),
            errors=self._errors.to_sorted(),
            sample=sample,
            scored_rows=marks,
            reliability=marks.compute_reliability(seed=self._seed)
            if self._kind.has_right_answers
            else None,
        )


def _truncate_value(value: Value | None) -> Value | None:
    """A value for the sample; long text is truncated."""
    return (
        cut_text(value, MAX_SAMPLE_CHARACTERS)
        if isinstance(value, str) and len(value) > MAX_SAMPLE_CHARACTERS
        else value
    )
