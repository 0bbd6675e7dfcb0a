"""Rows on which one of two systems is right or closer to gold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medtask.evaluation.comparison.aligned_rows import ComparisonRows, System
from medtask.evaluation.kinds.metrics import build_metric_sums
from medtask.evaluation.kinds.protocols import get_evaluation_kind
from medtask.evaluation.presentation.report_rows import (
    ReportRow,
    TextSpan,
    build_report_row,
    cut_text,
)
from medtask.evaluation.statistics.intervals import FloatArray, divide_or_nan

MAX_ROWS_PER_DIRECTION = 12  # rows per direction


@dataclass(frozen=True, slots=True)
class SystemAnswer:
    """One system's answer to a row; ``right`` is None if the kind is not graded right or wrong."""

    name: str
    value: str
    confidence: float | None
    right: bool | None


@dataclass(frozen=True, slots=True)
class SystemDisagreement:
    """One row: its text, gold, and the answers of two systems."""

    row: int
    record_id: str
    pieces: tuple[TextSpan, ...]
    options: tuple[str, ...]
    gold: str
    answers: tuple[SystemAnswer, SystemAnswer]


@dataclass(frozen=True, slots=True)
class DirectedDisagreements:
    """Rows on which ``ahead`` is closer to gold than ``behind``: their number and the clearest
    ones.
    """

    ahead: str
    behind: str
    count: int
    shown: tuple[SystemDisagreement, ...]

    def to_json(self) -> dict[str, object]:
        """Returns JSON values without record text."""
        rows = [{"row": one.row, "id": one.record_id} for one in self.shown]
        return {"ahead": self.ahead, "behind": self.behind, "rows": self.count, "first": rows}


def find_disagreements(
    comparison: ComparisonRows, first: str, second: str
) -> tuple[DirectedDisagreements, DirectedDisagreements]:
    """Rows of both directions, sorted by difference, then by confidence of the wrong answer."""
    one, other = (
        next(system for system in comparison.systems if system.name == name)
        for name in (first, second)
    )
    gaps = _compute_row_scores(comparison, one) - _compute_row_scores(comparison, other)
    return _build_disagreements(comparison, one, other, gaps), _build_disagreements(
        comparison, other, one, -gaps
    )


def _compute_row_scores(comparison: ComparisonRows, system: System) -> FloatArray:
    """Each row's headline metric, in [0, 1]."""
    headline = next(
        iter(
            build_metric_sums(
                comparison.kind, comparison.classes, comparison.gold, system.values
            ).values()
        )
    )
    over, under = headline.row_sums.toarray().T
    shares = divide_or_nan(over, under)
    # Gold and the answer are both empty, which counts as agreement.
    return np.where(np.isnan(shares), 1.0, shares)


def _build_disagreements(
    comparison: ComparisonRows, ahead: System, behind: System, gaps: FloatArray
) -> DirectedDisagreements:
    places = np.flatnonzero(gaps > 1e-9).tolist()
    ranked = sorted(
        places,
        key=lambda place: (
            -gaps[place],
            -(behind.answers[place].confidence or 0.0),
            ahead.rows[place],
        ),
    )
    return DirectedDisagreements(
        ahead.name,
        behind.name,
        len(places),
        tuple(
            _build_disagreement(comparison, ahead, behind, place)
            for place in ranked[:MAX_ROWS_PER_DIRECTION]
        ),
    )


def _build_disagreement(
    comparison: ComparisonRows, ahead: System, behind: System, place: int
) -> SystemDisagreement:
    cases = [
        build_report_row(
            system.rows[place],
            system.answers[place],
            comparison.texts[place],
            comparison.gold[place],
            style=get_evaluation_kind(comparison.kind).row_style,
            options=comparison.options[place],
        )
        for system in (ahead, behind)
    ]
    answers = [
        SystemAnswer(system.name, _format_value(case), case.confidence, system.right[place])
        for system, case in zip((ahead, behind), cases, strict=True)
    ]
    case = cases[0]
    return SystemDisagreement(
        case.row,
        cut_text(case.record_id, 80),
        case.pieces,
        case.options,
        case.gold or "none applies",
        (answers[0], answers[1]),
    )


def _format_value(case: ReportRow) -> str:
    if case.value is not None:
        return case.value
    return f"no answer ({case.status.replace('_', ' ')})"
