"""Decisions that do not depend on the kind: scores that are not valid, reasons for review."""

from __future__ import annotations

import math

import pytest

from medtask.errors import EngineError
from medtask.prediction.deciding import decide_answer
from medtask.records import (
    BranchScores,
    Status,
)
from support.scored_answers import (
    ABSTAINING,
    TASK,
    decide_label,
    make_output,
)


@pytest.mark.parametrize(
    "bad",
    [
        (math.nan,) * 3,
        (-1.0, math.nan, -2.0),
        (math.nan, -1.0, -1.0),
        (-math.inf,) * 3,
        (math.inf, -1.0, -1.0),
    ],
)
def test_scores_that_are_not_finite_fail_the_row_without_a_value(bad: tuple[float, ...]) -> None:
    answer = decide_answer(TASK, "r", make_output(BranchScores(bad)))
    assert answer.status is Status.FAILED
    assert (answer.value, answer.confidence, answer.probabilities) == (None, None, None)
    assert answer.reason == "the model gave no usable number (NaN or infinite)"


@pytest.mark.parametrize(
    "branch",
    [
        BranchScores((0.0, -1.0, -1.0), off_set=math.nan),
        BranchScores((0.0, -1.0, -1.0), slack=math.inf),
    ],
)
def test_a_bound_that_is_not_finite_fails_the_row(branch: BranchScores) -> None:
    assert decide_answer(TASK, "r", make_output(branch)).status is Status.FAILED


def test_a_choice_without_probabilities_has_a_value_and_no_confidence() -> None:
    chosen = BranchScores((-math.inf, 0.0, -math.inf), choice_only=True)
    answer = decide_answer(TASK, "r", make_output(chosen))
    assert (answer.status, answer.value, answer.confidence, answer.probabilities) == (
        Status.OK,
        "palliative",
        None,
        None,
    )
    abstained = BranchScores((-math.inf, -math.inf, -math.inf, 0.0), choice_only=True)
    answer = decide_answer(ABSTAINING, "r", make_output(abstained, task=ABSTAINING))
    assert (answer.status, answer.value, answer.reason) == (
        Status.ABSTAINED,
        None,
        "the model chose to abstain",
    )


def test_probabilities_that_are_with_a_large_error_bound_are_not_reported() -> None:
    loose = decide_answer(
        TASK,
        "r",
        make_output(
            BranchScores((math.log(0.9), math.log(0.1), -math.inf), off_set=0.99, slack=0.4)
        ),
    )
    assert (loose.status, loose.value, loose.confidence, loose.probabilities, loose.slack) == (
        Status.OK,
        "curative",
        None,
        None,
        0.4,
    )
    assert loose.reason == "no probability: the server's numbers leave 0.40 of it open"
    close = decide_answer(
        TASK, "r", make_output(BranchScores((math.log(0.9), math.log(0.1), -math.inf), slack=0.02))
    )
    assert close.confidence == pytest.approx(0.9)


def test_low_confidence_goes_to_review_with_the_numbers() -> None:
    answer = decide_label(0.3, 0.43, 0.27)
    assert (answer.status, answer.value) == (Status.REVIEW, "palliative")
    assert answer.reason == "confidence 0.43 is below 0.5"


def test_a_number_just_below_its_bound_is_not_rounded_to_the_bound() -> None:
    assert decide_label(0.4999, 0.2, 0.3001).reason == "confidence 0.4999 is below 0.5"


def test_probability_outside_the_set_goes_to_review_with_the_numbers() -> None:
    assert decide_label(0.9, 0.05, 0.05, off_set=0.9).status is Status.OK
    answer = decide_label(0.9, 0.05, 0.05, off_set=0.97)
    assert (answer.status, answer.off_set) == (Status.REVIEW, 0.97)
    assert answer.reason == "0.97 of the probability lay outside the labels, more than 0.9"


def test_both_reasons_for_review_are_reported() -> None:
    assert decide_label(0.4, 0.3, 0.3, off_set=0.97).reason == (
        "confidence 0.40 is below 0.5; 0.97 of the probability lay outside the labels, more than "
        "0.9"
    )


@pytest.mark.parametrize(
    "branches", [(BranchScores((0.0,)),), (BranchScores((0.0, -1.0, -1.0)),) * 2]
)
def test_scores_for_other_candidates_than_asked_are_refused(
    branches: tuple[BranchScores, ...],
) -> None:
    with pytest.raises(EngineError):
        decide_answer(TASK, "r", make_output(*branches))
