"""What a judge's answers mean: grades, expected grades, verdicts in both orders, and judgements
that failed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import pytest

from medtask.engines.base import EngineInfo
from medtask.engines.fake import FakeEngine
from medtask.engines.specs import BUILT_IN_ENGINES
from medtask.errors import EngineError
from medtask.prediction.judgements import (
    NO_ANSWER,
    NO_REFERENCE,
    JudgeCase,
    Judgement,
    PairwiseJudgement,
    build_comparison_records,
    build_grading_records,
    check_judge_engine,
    parse_judgements,
    parse_pairwise_judgements,
)
from medtask.prediction.predictor import predict_uncalibrated
from medtask.records import BranchScores, Prompt, Record, Scores, Status
from medtask.tasks.rubric import MEDICAL_RUBRIC, make_comparison_task, make_grading_task


def make_case(row: int, answer: str = "No.", reference: str = "Yes.", rival: str = "") -> JudgeCase:
    return JudgeCase(row, f"Q{row}", f"Question {row}?", reference, answer, alternative=rival)


def grade_cases(cases: Sequence[JudgeCase], engine: FakeEngine) -> list[Judgement]:
    return list(
        parse_judgements(
            MEDICAL_RUBRIC,
            cases,
            predict_uncalibrated(
                make_grading_task(MEDICAL_RUBRIC),
                engine,
                build_grading_records(MEDICAL_RUBRIC, cases),
            ),
        )
    )


def compare_cases(cases: Sequence[JudgeCase], engine: FakeEngine) -> list[PairwiseJudgement]:
    return list(
        parse_pairwise_judgements(
            MEDICAL_RUBRIC,
            cases,
            predict_uncalibrated(
                make_comparison_task(MEDICAL_RUBRIC),
                engine,
                build_comparison_records(MEDICAL_RUBRIC, cases),
            ),
        )
    )


class BiasedJudgeEngine(FakeEngine):
    """A judge that likes answers with the word "good", or, where ``preferred_position`` is
    given, whatever stands in that place.
    """

    def __init__(self, preferred_position: str | None = None) -> None:
        super().__init__()
        self.place = preferred_position

    def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
        return [Scores(prompt.record_id, (BranchScores(self._choose(prompt)),)) for prompt in batch]

    def _choose(self, prompt: Prompt) -> tuple[float, ...]:
        first = (
            prompt.text.index("good") < prompt.text.index("end of the answer A")
            if "good" in prompt.text
            else True
        )
        chosen = self.place or ("A" if first else "B")
        return tuple(
            math.log(0.8 if tail == chosen else 0.2) for tail in prompt.branches[0].candidates
        )


def test_the_expected_grade_is_the_mean_of_all_grades() -> None:
    shares = {"1": 0.1, "2": 0.2, "3": 0.1, "4": 0.5, "5": 0.1}
    (one,) = grade_cases([make_case(1)], FakeEngine(shares))
    assert (one.status, one.grade) == (Status.OK, "4")
    assert one.expected_grade == pytest.approx(0.1 + 0.4 + 0.3 + 2.0 + 0.5)
    assert one.confidence == pytest.approx(0.5)


def test_an_unsure_judge_still_gives_its_grade() -> None:
    (one,) = grade_cases([make_case(1)], FakeEngine(dict.fromkeys("12345", 0.2)))
    assert (one.status, one.grade) == (Status.OK, "1")


def test_what_cannot_be_judged_is_not_asked_about_and_keeps_its_place() -> None:
    engine = FakeEngine({"5": 0.9})
    cases = [
        make_case(1, answer=""),
        make_case(2),
        make_case(3, reference=""),
        make_case(4),
        make_case(5, answer=""),
    ]
    found = grade_cases(cases, engine)
    assert [one.case.row for one in found] == [1, 2, 3, 4, 5]
    assert [one.grade for one in found] == [None, "5", None, "5", None]
    assert [one.reason for one in found] == [NO_ANSWER, None, NO_REFERENCE, None, NO_ANSWER]
    assert {found[0].status, found[2].status} == {Status.EMPTY_INPUT}
    assert engine.prompt_count == 2


def test_equal_questions_are_asked_once() -> None:
    engine = FakeEngine()
    cases = [JudgeCase(row, f"Q{row}", "Q?", "Yes.", "No.") for row in range(1, 31)]
    assert len({one.grade for one in grade_cases(cases, engine)}) == 1
    assert engine.prompt_count == 1


@pytest.mark.parametrize(
    ("fault", "status"),
    [("nan", Status.FAILED), ("impossible", Status.FAILED), ("too_long", Status.TOO_LONG)],
)
def test_a_failed_judgement_is_a_status_and_no_number(fault: str, status: Status) -> None:
    found = grade_cases([make_case(1), make_case(2)], FakeEngine(**{fault: {"1"}}))
    assert (found[0].status, found[0].grade, found[0].expected_grade, found[0].confidence) == (
        status,
        None,
        None,
        None,
    )
    assert found[0].reason
    assert found[1].grade is not None


def test_no_cases_are_no_judgements() -> None:
    assert grade_cases([], FakeEngine()) == compare_cases([], FakeEngine()) == []


def test_verdicts_that_agree_in_both_orders_are_wins() -> None:
    cases = [
        make_case(1, "a good one", rival="a bad one"),
        make_case(2, "a bad one", rival="a good one"),
    ]
    found = compare_cases(cases, BiasedJudgeEngine())
    assert [one.winner for one in found] == ["answer", "rival"]
    assert [one.winning_position for one in found] == [None, None]
    assert [one.preference for one in found] == [pytest.approx(0.8), pytest.approx(0.2)]


@pytest.mark.parametrize(("letter", "index"), [("A", "first"), ("B", "second")])
def test_a_judge_that_looks_at_the_place_alone_gives_ties(letter: str, index: str) -> None:
    (one,) = compare_cases([make_case(1, "this", rival="that")], BiasedJudgeEngine(letter))
    assert (one.winner, one.winning_position) == ("tie", index)
    assert one.preference == pytest.approx(0.5)


def test_the_same_text_is_a_tie_without_asking() -> None:
    engine = FakeEngine()
    (one,) = compare_cases([make_case(1, "No.  It is not.", rival="No. It\nis not.")], engine)
    assert (one.winner, one.winning_position, one.status, engine.prompt_count) == (
        "tie",
        None,
        Status.OK,
        0,
    )


def test_one_failed_order_is_a_failed_verdict() -> None:
    cases = [make_case(row, "this", rival="that") for row in (1, 2, 3)]
    found = compare_cases(cases, FakeEngine(nan={"1 as is", "2 swapped"}))
    assert [one.winner is None for one in found] == [True, True, False]
    assert [one.status for one in found[:2]] == [Status.FAILED] * 2


def test_a_pair_without_its_rival_is_not_asked_about() -> None:
    (one,) = compare_cases([make_case(1, "this", rival="")], FakeEngine())
    assert (one.winner, one.status, one.reason) == (None, Status.EMPTY_INPUT, NO_ANSWER)


def test_a_judge_that_reports_no_probabilities_gives_grades_alone() -> None:
    class ChoosingEngine(FakeEngine):
        def score_batch(self, batch: Sequence[Prompt]) -> list[Scores]:
            chosen = BranchScores(
                (-math.inf, -math.inf, -math.inf, 0.0, -math.inf), choice_only=True
            )
            return [Scores(prompt.record_id, (chosen,)) for prompt in batch]

    (one,) = grade_cases([make_case(1)], ChoosingEngine())
    assert (one.grade, one.expected_grade, one.confidence) == ("4", None, None)


def test_records_are_made_while_they_are_asked_for() -> None:
    def endless() -> Iterator[JudgeCase]:
        row = 0
        while True:
            row += 1
            yield make_case(row, answer=f"Answer {row}.")

    records: Iterable[Record] = build_grading_records(MEDICAL_RUBRIC, endless())
    assert next(iter(records)).id == "1"


def test_an_engine_that_reads_no_instruction_is_no_judge() -> None:
    engine = FakeEngine()
    engine.info = EngineInfo("encoder", "MiniLM", {}, BUILT_IN_ENGINES["encoder"].traits)
    with pytest.raises(EngineError, match="MiniLM does not read instructions"):
        check_judge_engine(engine)
