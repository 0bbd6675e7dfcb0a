"""Summarises the answers of a run in one pass, in bounded memory."""

from __future__ import annotations

import re
from bisect import insort
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from medtask.evaluation.kinds.protocols import AnswerStatistics, get_evaluation_kind
from medtask.evaluation.presentation.report_rows import ReportRow, TopK, build_report_row
from medtask.evaluation.report.gold_summary import GoldAccumulator, GoldSummary, GoldVerdict
from medtask.evaluation.statistics.intervals import Metric
from medtask.evaluation.statistics.pass_changes import PassAccumulator, PassSummary
from medtask.evaluation.statistics.throughput import ThroughputAccumulator, ThroughputSpan
from medtask.kinds import KindName
from medtask.records import Answer, AnsweredRow, Status

HISTOGRAM_BINS = 20
MAX_DOUBTFUL_ROWS = 50
MAX_CAUSES = 100
STATUS_NAMES = {
    Status.OK: "ok",
    Status.REVIEW: "review",
    Status.ABSTAINED: "abstained",
    Status.EMPTY_INPUT: "empty",
    Status.NOT_TEXT: "not text",
    Status.TOO_SHORT: "too short",
    Status.NOVEL: "unlike the examples",
    Status.TOO_LONG: "too long",
    Status.TRUNCATED: "truncated",
    Status.UNPARSABLE: "unparsable",
    Status.FAILED: "failed",
}
# Rows that need no review
_NO_REVIEW_STATUSES = (Status.OK, Status.EMPTY_INPUT, Status.NOT_TEXT)
_NUMBER = re.compile(r"\d[\d.,]*")


@dataclass(frozen=True, slots=True)
class StatusCause:
    """A reason why rows are not ok; reasons that differ only in numbers are merged."""

    status: Status
    example: str
    count: int
    first_rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RunSummary:
    """Summary of a run's answers.

    Attributes:
        kind: The kind of question.
        rows: Number of rows.
        answered: Number of rows with an answer.
        statuses: Rows by status.
        causes: Reasons why rows are not ok.
        answer_statistics: Statistics of the kind.
        confidence_bins: 20 bins over [0, 1], by agreement with gold, of answers that have a
            confidence.
        off_set_bins: 20 bins of off-set mass, of the rows that have it.
        off_set_mean: Mean off-set mass.
        slack_max: Largest bound on unread probability.
        doubtful: Up to 50 rows that need review, the least certain first.
        doubtful_rows: Number of rows that need review.
        tokens_read: Tokens read.
        tokens_reused: Tokens reused.
        total_ms: Sum of the rows' times.
        pace: Speed along the table.
        passes: Further passes.
        gold: Comparison with gold; None without gold.
    """

    kind: KindName
    rows: int
    answered: int
    statuses: Mapping[Status, int]
    causes: tuple[StatusCause, ...]
    answer_statistics: AnswerStatistics
    confidence_bins: Mapping[GoldVerdict, NDArray[np.int64]]
    off_set_bins: NDArray[np.int64]
    off_set_mean: float | None
    slack_max: float
    doubtful: tuple[ReportRow, ...]
    doubtful_rows: int
    tokens_read: int
    tokens_reused: int
    total_ms: float
    pace: tuple[ThroughputSpan, ...]
    passes: tuple[PassSummary, ...]
    gold: GoldSummary | None

    @property
    def metrics(self) -> Mapping[str, Metric | None]:
        """Metrics with 95 % confidence intervals by name; empty without usable gold."""
        return self.gold.evaluation.metrics if self.gold and self.gold.evaluation else {}

    def to_json(self) -> dict[str, object]:
        """Returns a plain dict without record text."""
        return {
            "rows": self.rows,
            "answered": self.answered,
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "causes": [asdict(cause) for cause in self.causes],
            "answers": self.answer_statistics.to_json(),
            "confidence": {
                verdict: bins.tolist() for verdict, bins in self.confidence_bins.items()
            },
            "off_set": {"bins": self.off_set_bins.tolist(), "mean": self.off_set_mean},
            "slack_max": self.slack_max,
            "doubtful": {
                "rows": self.doubtful_rows,
                "first": [case.to_json() for case in self.doubtful],
            },
            "cost": {
                "tokens_read": self.tokens_read,
                "tokens_reused": self.tokens_reused,
                "ms": self.total_ms,
            },
            "pace": [span.to_json() for span in self.pace],
            **({"passes": [asdict(one) for one in self.passes]} if self.passes else {}),
            "gold": self.gold.to_json() if self.gold else None,
        }


class SummaryAccumulator:
    """Summarises answers one by one; memory does not grow with their number.

    ``labels`` are the task's labels without its abstention, ``units`` the units of its fields. The
    result is independent of the order of rows.
    """

    def __init__(
        self,
        kind: KindName,
        labels: Sequence[str],
        abstain: str | None,
        has_gold: bool,
        seed: int = 0,
        units: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._kind_name, self._kind = kind, get_evaluation_kind(kind)
        self._style = replace(self._kind.row_style, units=units)
        self._answer_statistics = self._kind.create_statistics(tuple(labels))
        grader = self._kind.create_grader(labels, abstain, seed)
        self._statuses: Counter[Status] = Counter()
        self._causes: dict[tuple[Status, str], _CauseCounter] = {}
        verdicts: tuple[GoldVerdict, ...] = ("right", "wrong", "unknown")
        self._confidence = {
            verdict: np.zeros(HISTOGRAM_BINS, dtype=np.int64) for verdict in verdicts
        }
        self._off_set = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
        self._off_set_sum = self._slack_max = self._ms = 0.0
        self._answered = self._tokens_read = self._tokens_reused = self._doubtful_rows = 0
        self._doubtful: TopK[ReportRow] = TopK(MAX_DOUBTFUL_ROWS)
        self._pace = ThroughputAccumulator()
        self._passes = PassAccumulator()
        self._gold = GoldAccumulator(self._kind, grader, seed, self._style) if has_gold else None

    def add(self, row: AnsweredRow) -> None:
        """Adds one row; each row must be added only once. Invalid gold is counted and not used."""
        answer = row.answer
        self._statuses[answer.status] += 1
        self._tokens_read += answer.tokens_read
        self._tokens_reused += answer.tokens_reused
        self._ms += answer.ms
        self._pace.add(row.row, answer.ms)
        self._slack_max = max(self._slack_max, answer.slack)
        if answer.off_set is not None:
            self._off_set[_find_bin(answer.off_set)] += 1
            self._off_set_sum += answer.off_set
        self._answered += answer.value is not None
        self._answer_statistics.add(answer, row.options)
        verdict = self._grade(row)
        if answer.value is not None and answer.confidence is not None:
            self._confidence[verdict][_find_bin(answer.confidence)] += 1
        if answer.status is not Status.OK:
            self._count_cause(row.row, answer.status, answer.reason or "")
        if answer.status not in _NO_REVIEW_STATUSES:
            self._doubtful_rows += 1
            # Rows without any probability come last, because failures are listed by their cause.
            key = (
                float(bool(answer.probabilities)),
                -_find_top_probability(answer),
                -float(row.row),
            )
            shown = row.gold if self._gold else None
            self._doubtful.push(
                key,
                lambda: build_report_row(
                    row.row,
                    answer,
                    row.text,
                    shown,
                    style=self._style,
                    options=row.options,
                ),
            )

    def _grade(self, row: AnsweredRow) -> GoldVerdict:
        accumulator = self._gold
        truth = accumulator.parse_gold(row) if accumulator else None
        if accumulator is None or truth is None:
            self._passes.add(row.answer, None)
            return "unknown"
        self._passes.add(
            row.answer,
            lambda status, value: accumulator.is_right(status, value, truth),
            row.group,
        )
        return accumulator.add(row, truth)

    def finish(self) -> RunSummary:
        seen = int(self._off_set.sum())
        causes = sorted(self._causes.items(), key=lambda item: (-item[1].count, item[0]))
        return RunSummary(
            kind=self._kind_name,
            rows=self._statuses.total(),
            answered=self._answered,
            statuses={
                status: self._statuses[status] for status in Status if self._statuses[status]
            },
            causes=tuple(tally.to_cause(status) for (status, _), tally in causes),
            answer_statistics=self._answer_statistics,
            confidence_bins=self._confidence,
            off_set_bins=self._off_set,
            off_set_mean=self._off_set_sum / seen if seen else None,
            slack_max=self._slack_max,
            doubtful=self._doubtful.to_sorted(),
            doubtful_rows=self._doubtful_rows,
            tokens_read=self._tokens_read,
            tokens_reused=self._tokens_reused,
            total_ms=self._ms,
            pace=self._pace.finish(),
            passes=self._passes.finish(),
            gold=self._gold.finish() if self._gold else None,
        )

    def _count_cause(self, row: int, status: Status, reason: str) -> None:
        key = status, _NUMBER.sub("#", reason)
        if key not in self._causes and len(self._causes) >= MAX_CAUSES:
            reason = "other reasons"
            key = status, reason
        self._causes.setdefault(key, _CauseCounter()).add(row, reason)


class _CauseCounter:
    """Number of rows with one cause, and the first five of them with their reasons."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[int, str]] = []

    def add(self, row: int, reason: str) -> None:
        self.count += 1
        insort(self._first, (row, reason))
        del self._first[5:]

    def to_cause(self, status: Status) -> StatusCause:
        return StatusCause(
            status, self._first[0][1], self.count, tuple(row for row, _ in self._first)
        )


def _find_bin(share: float) -> int:
    return min(HISTOGRAM_BINS - 1, max(0, int(share * HISTOGRAM_BINS)))


def _find_top_probability(answer: Answer) -> float:
    """The confidence; if missing, the probability of the likeliest candidate."""
    if answer.confidence is not None:
        return answer.confidence
    return max(answer.probabilities.values(), default=0.0) if answer.probabilities else 0.0
