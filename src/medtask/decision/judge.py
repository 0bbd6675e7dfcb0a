"""A judge is a task too: its labels are the grades. What is asked about answers, and what the
judge's own answers mean.

A failed judgement stays a failed judgement, with its status and reason: it is no grade, no verdict
and no agreement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from medtask.engines.base import Engine
from medtask.errors import EngineError
from medtask.records import Answer, Record, Status
from medtask.tasks.rubric import FIRST, Rubric, comparing_record, grading_record

_NO_INSTRUCTIONS = ("encoder", "linear")  # engines that read bare texts
NO_ANSWER = "there is no answer to judge"
NO_REFERENCE = "there is no reference to judge it by"


@dataclass(frozen=True, slots=True)
class Case:
    """One answer that is to be judged. ``row`` counts from 1; texts are "" where there are none.
    ``rival``: another answer to the same question, with which it is compared.
    """

    row: int
    record_id: str
    question: str
    reference: str
    answer: str
    context: str = ""
    rival: str = ""
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says about one answer.

    ``status``: OK or REVIEW with a grade; EMPTY_INPUT for what was not asked about; else why there
    is none. ``grade``: the likeliest, by name. ``expected``: the mean of the grades' numbers,
    weighed by their probabilities; None where the judge tells no probabilities. ``confidence``: the
    probability of ``grade``.
    """

    case: Case
    status: Status
    grade: str | None = None
    expected: float | None = None
    confidence: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which of two answers a judge prefers when it is asked in both orders.

    ``winner``: "answer" or "rival"; "tie" where the orders disagree (``place`` decided then) or the
    texts are the same; None where a judgement failed. ``place``: of answers that lost and won by
    their place alone, the place that won. ``preference``: the mean probability, of both orders,
    that ``case.answer`` is better; None where it is not known.
    """

    case: Case
    status: Status
    winner: Literal["answer", "rival", "tie"] | None = None
    place: Literal["first", "second"] | None = None
    preference: float | None = None
    reason: str | None = None


def list_gradings(rubric: Rubric, cases: Iterable[Case]) -> Iterator[Record]:
    """The rows of ``rubric.grading_task``: one for each case that can be judged."""
    for case in cases:
        if not _find_gap(rubric, case):
            yield grading_record(
                str(case.row),
                question=case.question,
                context=case.context,
                reference=_show_reference(rubric, case),
                answer=case.answer,
            )


def read_gradings(
    rubric: Rubric, cases: Iterable[Case], answers: Iterable[Answer]
) -> Iterator[Judgement]:
    """One judgement per case, from the same cases and the answers to ``list_gradings``, in its
    order.
    """
    waiting = iter(answers)
    points = {grade.name: grade.points for grade in rubric.grades}
    for case in cases:
        if gap := _find_gap(rubric, case):
            yield Judgement(case, Status.EMPTY_INPUT, reason=gap)
            continue
        answer = next(waiting)
        if not isinstance(answer.value, str):
            yield Judgement(case, answer.status, reason=answer.reason)
            continue
        shares = answer.probabilities
        expected = sum(points[name] * share for name, share in shares.items()) if shares else None
        yield Judgement(
            case, answer.status, answer.value, expected, answer.confidence, answer.reason
        )


def list_comparisons(rubric: Rubric, cases: Iterable[Case]) -> Iterator[Record]:
    """The rows of ``rubric.comparing_task``: two for each case that can be judged, the second with
    the answers swapped.
    """
    for case in cases:
        if not _find_gap(rubric, case, paired=True) and not _are_same(case):
            shown = {
                "question": case.question,
                "context": case.context,
                "reference": _show_reference(rubric, case),
            }
            yield comparing_record(
                f"{case.row} as is", **shown, first=case.answer, second=case.rival
            )
            yield comparing_record(
                f"{case.row} swapped", **shown, first=case.rival, second=case.answer
            )


def read_comparisons(
    rubric: Rubric, cases: Iterable[Case], answers: Iterable[Answer]
) -> Iterator[Verdict]:
    """One verdict per case, from the same cases and the answers to ``list_comparisons``, in its
    order.
    """
    waiting = iter(answers)
    for case in cases:
        if gap := _find_gap(rubric, case, paired=True):
            yield Verdict(case, Status.EMPTY_INPUT, reason=gap)
        elif _are_same(case):
            yield Verdict(case, Status.OK, "tie", reason="both answers are the same")
        else:
            yield _weigh_orders(case, next(waiting), next(waiting))


def _weigh_orders(case: Case, plain: Answer, swapped: Answer) -> Verdict:
    failed = next((answer for answer in (plain, swapped) if answer.value is None), None)
    if failed:
        return Verdict(case, failed.status, reason=failed.reason)
    doubted = Status.REVIEW in (plain.status, swapped.status)
    reason = (
        "; ".join(dict.fromkeys(answer.reason for answer in (plain, swapped) if answer.reason))
        or None
    )
    status = Status.REVIEW if doubted else Status.OK
    preference = None
    if plain.probabilities and swapped.probabilities:
        preference = (plain.probabilities[FIRST] + 1 - swapped.probabilities[FIRST]) / 2
    first_each_time = plain.value == FIRST
    if plain.value == swapped.value:
        return Verdict(
            case, status, "tie", "first" if first_each_time else "second", preference, reason
        )
    return Verdict(case, status, "answer" if first_each_time else "rival", None, preference, reason)


def _find_gap(rubric: Rubric, case: Case, *, paired: bool = False) -> str | None:
    """Why a case cannot be judged. An empty reference shown to a judge would be one to which
    nothing compares well.
    """
    if not case.answer or (paired and not case.rival):
        return NO_ANSWER
    return NO_REFERENCE if rubric.reference and not case.reference else None


def _show_reference(rubric: Rubric, case: Case) -> str:
    return case.reference if rubric.reference else ""


def _are_same(case: Case) -> bool:
    return " ".join(case.answer.split()) == " ".join(case.rival.split())


def check_judge(engine: Engine) -> None:
    """EngineError where an engine does not read what a judge is asked."""
    if engine.info.name in _NO_INSTRUCTIONS:
        raise EngineError(
            f"{engine.info.title} reads no instruction, so it cannot judge",
            fix="choose a language model (`medtask models` lists them)",
        )
