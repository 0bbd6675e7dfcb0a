"""Tables of judgements, with metrics computed while they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from medtask.evaluation.presentation.formatting import count_left_out
from medtask.evaluation.statistics.judge_metrics import (
    GradedAnswer,
    GradeScale,
    JudgeMetrics,
    compute_judge_metrics,
)
from medtask.evaluation.statistics.pairwise_judge_metrics import (
    PairwiseJudgeMetrics,
    compute_pairwise_judge_metrics,
)
from medtask.prediction.judgements import (
    NO_ANSWER,
    NO_REFERENCE,
    Judgement,
    PairwiseJudgement,
    parse_judgements,
    parse_pairwise_judgements,
)
from medtask.records import Answer, LeftOut
from medtask.runs.judging_input import JudgingInput
from medtask.tables.table import Column
from medtask.tables.write import write_answers

_GRADE_COLUMNS = (
    Column("id", "text"),
    Column("grade", "text"),
    Column("expected_grade", "float"),
    Column("confidence", "float"),
    Column("status", "text"),
    Column("reason", "text"),
)
_PAIR_COLUMNS = (
    Column("id", "text"),
    Column("winner", "text"),
    Column("decided_by_place", "text"),
    Column("preference", "float"),
    Column("status", "text"),
    Column("reason", "text"),
)


def write_grade_table(
    judging_input: JudgingInput,
    answers: Iterable[Answer],
    human_grades: Mapping[int, int],
    out: Path,
) -> JudgeMetrics:
    """Write the table of grades; returns their metrics."""
    rubric, rows_used = judging_input.rubric, _RowCounts()
    rows: list[GradedAnswer] = []
    positions = {name: position for position, name in enumerate(rubric.grade_names)}

    def list_lines() -> Iterator[tuple[object, ...]]:
        for judgement in parse_judgements(rubric, judging_input.iter_cases(), answers):
            if rows_used.add(judgement):
                grade = positions[judgement.grade] if judgement.grade is not None else None
                rows.append(
                    GradedAnswer(
                        grade,
                        judgement.expected_grade,
                        human_grades.get(judgement.case.row),
                        judgement.case.group,
                    )
                )
            yield (
                judgement.case.record_id,
                judgement.grade,
                _round(judgement.expected_grade),
                _round(judgement.confidence),
                str(judgement.status),
                judgement.reason,
            )

    write_answers(out, _GRADE_COLUMNS, list_lines())
    scale = GradeScale(
        rubric.grade_names,
        tuple(grade.points for grade in rubric.grades),
        positions[rubric.passing],
    )
    ungraded = len(human_grades.keys() - rows_used.left_out.keys()) - sum(
        row.human_grade is not None for row in rows
    )
    metrics = compute_judge_metrics(
        scale,
        rows,
        unanswered=rows_used.unanswered,
        unreferenced=rows_used.unreferenced,
        lost=ungraded,
    )
    return replace(metrics, left_out=count_left_out(rows_used.left_out.values()))


def write_pair_table(
    judging_input: JudgingInput, answers: Iterable[Answer], out: Path
) -> PairwiseJudgeMetrics:
    """Write the table of preferences; returns their metrics."""
    rows_used, outcomes, groups = _RowCounts(), list[str | None](), list[str | None]()
    names = {
        "answer": judging_input.answers.name,
        "rival": judging_input.alternative.name if judging_input.alternative else "",
    }

    def list_lines() -> Iterator[tuple[object, ...]]:
        for judgement in parse_pairwise_judgements(
            judging_input.rubric, judging_input.iter_cases(), answers
        ):
            if rows_used.add(judgement):
                outcomes.append(_name_outcome(judgement))
                groups.append(judgement.case.group)
            winner = names.get(judgement.winner or "", judgement.winner)
            yield (
                judgement.case.record_id,
                winner,
                judgement.winning_position,
                _round(judgement.preference),
                str(judgement.status),
                judgement.reason,
            )

    write_answers(out, _PAIR_COLUMNS, list_lines())
    metrics = compute_pairwise_judge_metrics(
        outcomes, groups, unanswered=rows_used.unanswered, unreferenced=rows_used.unreferenced
    )
    return replace(metrics, left_out=count_left_out(rows_used.left_out.values()))


def _name_outcome(judgement: PairwiseJudgement) -> str | None:
    match judgement.winner:
        case "answer":
            return "win"
        case "rival":
            return "loss"
        case "tie":
            return judgement.winning_position or "same"
    return None


@dataclass(slots=True)
class _RowCounts:
    """The rows that metrics are not based on: left out, or not sent to the judge."""

    unanswered: int = 0
    unreferenced: int = 0
    left_out: dict[int, LeftOut] = field(default_factory=dict)

    def add(self, judgement: Judgement | PairwiseJudgement) -> bool:
        """Count a judgement; returns whether metrics use it."""
        if judgement.case.left_out:
            self.left_out[judgement.case.row] = judgement.case.left_out
            return False
        self.unanswered += judgement.reason == NO_ANSWER
        self.unreferenced += judgement.reason == NO_REFERENCE
        return judgement.reason not in (NO_ANSWER, NO_REFERENCE)


def _round(number: float | None) -> float | None:
    return None if number is None else round(number, 4)
