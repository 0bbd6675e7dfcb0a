"""Records for a judge, and judgements from its answers.

A judge is a task whose labels are the grades. A failed judgement has a status and a reason, but no
grade.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from medtask.display import join_reasons
from medtask.engines.base import Engine
from medtask.errors import EngineError
from medtask.records import Answer, LeftOut, Record, Status
from medtask.tasks.rubric import FIRST_ANSWER, Rubric, make_comparison_record, make_grading_record

NO_ANSWER = "there is no answer to judge"
NO_REFERENCE = "there is no reference to judge it by"


@dataclass(frozen=True, slots=True)
class JudgeCase:
    """One answer to judge, or to compare with ``alternative``; missing texts are "".

    ``left_out`` says why metrics leave the row out; None for a row that counts.
    """

    row: int
    record_id: str
    question: str
    reference: str
    answer: str
    context: str = ""
    alternative: str = ""
    group: str | None = None
    left_out: LeftOut | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """The judgement of one answer.

    Attributes:
        case: The judged answer.
        status: OK or REVIEW with a grade; EMPTY_INPUT if the judge was not asked; else the failure.
        grade: The name of the most probable grade.
        expected_grade: The mean of the grades' points, weighted by probability; None without
            probabilities.
        confidence: The probability of ``grade``.
        reason: Why a person should review it, or why there is no grade.
    """

    case: JudgeCase
    status: Status
    grade: str | None = None
    expected_grade: float | None = None
    confidence: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class PairwiseJudgement:
    """Which of two answers a judge prefers when it is asked in both orders.

    Attributes:
        case: The compared answers.
        status: The status, as in `Judgement`.
        winner: "answer" or "rival" (the alternative); "tie" if the orders disagree or the texts are
            equal; None if a judgement failed.
        winning_position: The preferred position, if the orders disagree.
        preference: The mean probability over both orders that ``case.answer`` is better; None if
            unknown.
        reason: Why there is no winner.
    """

    case: JudgeCase
    status: Status
    winner: Literal["answer", "rival", "tie"] | None = None
    winning_position: Literal["first", "second"] | None = None
    preference: float | None = None
    reason: str | None = None


def build_grading_records(rubric: Rubric, cases: Iterable[JudgeCase]) -> Iterator[Record]:
    """Records for `make_grading_task`: one for each case that can be judged."""
    for case in cases:
        if not _find_missing_input(rubric, case):
            yield make_grading_record(
                str(case.row),
                question=case.question,
                context=case.context,
                reference=_get_reference(rubric, case),
                answer=case.answer,
            )


def parse_judgements(
    rubric: Rubric, cases: Iterable[JudgeCase], answers: Iterable[Answer]
) -> Iterator[Judgement]:
    """One judgement per case, from the answers to `build_grading_records` of the same cases."""
    remaining = iter(answers)
    points = {grade.name: grade.points for grade in rubric.grades}
    for case in cases:
        if missing_input := _find_missing_input(rubric, case):
            yield Judgement(case, Status.EMPTY_INPUT, reason=missing_input)
            continue
        answer = next(remaining)
        if not isinstance(answer.value, str):
            yield Judgement(case, answer.status, reason=answer.reason)
            continue
        probabilities = answer.probabilities
        expected_grade = (
            sum(points[name] * share for name, share in probabilities.items())
            if probabilities
            else None
        )
        yield Judgement(
            case, answer.status, answer.value, expected_grade, answer.confidence, answer.reason
        )


def build_comparison_records(rubric: Rubric, cases: Iterable[JudgeCase]) -> Iterator[Record]:
    """Records for `make_comparison_task`: two per case, the second with answers swapped."""
    for case in cases:
        if not _find_missing_input(rubric, case, paired=True) and not _are_same_answers(case):
            shared = {
                "question": case.question,
                "context": case.context,
                "reference": _get_reference(rubric, case),
            }
            yield make_comparison_record(
                f"{case.row} as is", **shared, first=case.answer, second=case.alternative
            )
            yield make_comparison_record(
                f"{case.row} swapped", **shared, first=case.alternative, second=case.answer
            )


def parse_pairwise_judgements(
    rubric: Rubric, cases: Iterable[JudgeCase], answers: Iterable[Answer]
) -> Iterator[PairwiseJudgement]:
    """One judgement per case, from the answers to `build_comparison_records` of the same cases."""
    remaining = iter(answers)
    for case in cases:
        if missing_input := _find_missing_input(rubric, case, paired=True):
            yield PairwiseJudgement(case, Status.EMPTY_INPUT, reason=missing_input)
        elif _are_same_answers(case):
            yield PairwiseJudgement(case, Status.OK, "tie", reason="both answers are the same")
        else:
            yield _combine_orders(case, next(remaining), next(remaining))


def _combine_orders(case: JudgeCase, plain: Answer, swapped: Answer) -> PairwiseJudgement:
    failed = next((answer for answer in (plain, swapped) if answer.value is None), None)
    if failed:
        return PairwiseJudgement(case, failed.status, reason=failed.reason)
    doubted = Status.REVIEW in (plain.status, swapped.status)
    reason = join_reasons(*dict.fromkeys((plain.reason, swapped.reason)))
    status = Status.REVIEW if doubted else Status.OK
    preference = None
    if plain.probabilities and swapped.probabilities:
        preference = (
            plain.probabilities[FIRST_ANSWER] + 1 - swapped.probabilities[FIRST_ANSWER]
        ) / 2
    first_each_time = plain.value == FIRST_ANSWER
    if plain.value == swapped.value:
        return PairwiseJudgement(
            case, status, "tie", "first" if first_each_time else "second", preference, reason
        )
    return PairwiseJudgement(
        case, status, "answer" if first_each_time else "rival", None, preference, reason
    )


def _find_missing_input(rubric: Rubric, case: JudgeCase, *, paired: bool = False) -> str | None:
    """Why a case cannot be judged; with an empty reference, a judge would reject every answer."""
    if not case.answer or (paired and not case.alternative):
        return NO_ANSWER
    return NO_REFERENCE if rubric.reference and not case.reference else None


def _get_reference(rubric: Rubric, case: JudgeCase) -> str:
    return case.reference if rubric.reference else ""


def _are_same_answers(case: JudgeCase) -> bool:
    return " ".join(case.answer.split()) == " ".join(case.alternative.split())


def check_judge_engine(engine: Engine) -> None:
    """Raise EngineError if an engine does not read instructions."""
    if not engine.info.traits.reads_instructions:
        raise EngineError(
            f"{engine.info.title} does not read instructions, so it cannot judge",
            fix="choose a language model (`medtask models` lists them)",
        )
