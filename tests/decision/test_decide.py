from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.decision.decide import decide
from medtask.errors import EngineError
from medtask.records import Answer, BranchScores, Fault, Scores, Status
from medtask.tasks.task import Label, Review, Task

LABELS = tuple(Label(name, "", name) for name in ("curative", "palliative", "staging"))
TASK = Task("purpose", "label", "Which purpose?", "{{ text }}", LABELS, review=Review(confidence_below=0.5, off_set_above=0.9))
ABSTAINING = Task("purpose", "label", "Which purpose?", "{{ text }}", LABELS, abstain=Label("cannot tell", "", "cannot tell"))


def settle(*shares: float, task: Task = TASK, off_set: float | None = None) -> Answer:
    logprobs = tuple(math.log(share) if share else -math.inf for share in shares)
    return decide(task, "r", Scores("r", (BranchScores(logprobs, off_set),), tokens_read=7, tokens_reused=9))


def test_the_likeliest_label_is_the_answer() -> None:
    answer = settle(0.2, 0.7, 0.1)
    assert (answer.status, answer.value, answer.reason) == (Status.OK, "palliative", None)
    assert answer.confidence == pytest.approx(0.7)
    assert answer.probabilities == pytest.approx({"curative": 0.2, "palliative": 0.7, "staging": 0.1})
    assert (answer.tokens_read, answer.tokens_reused) == (7, 9)


def test_on_a_tie_the_label_that_comes_first_wins() -> None:
    assert settle(0.1, 0.45, 0.45).value == "palliative"


def test_a_label_may_be_impossible() -> None:
    answer = settle(0.0, 1.0, 0.0)
    assert (answer.value, answer.confidence) == ("palliative", 1.0)


@pytest.mark.parametrize("bad", [(math.nan,) * 3, (-1.0, math.nan, -2.0), (math.nan, -1.0, -1.0), (-math.inf,) * 3, (math.inf, -1.0, -1.0)])
def test_scores_that_are_no_numbers_fail_the_row_and_leave_no_value(bad: tuple[float, ...]) -> None:
    answer = decide(TASK, "r", Scores("r", (BranchScores(bad),)))
    assert answer.status is Status.FAILED
    assert (answer.value, answer.confidence, answer.probabilities) == (None, None, None)
    assert answer.reason == "the model gave no usable number (NaN or infinite)"


@pytest.mark.parametrize("branch", [BranchScores((0.0, -1.0, -1.0), off_set=math.nan), BranchScores((0.0, -1.0, -1.0), slack=math.inf)])
def test_a_bound_that_is_no_number_fails_the_row(branch: BranchScores) -> None:
    assert decide(TASK, "r", Scores("r", (branch,))).status is Status.FAILED


def test_low_confidence_goes_to_review_with_the_figures() -> None:
    answer = settle(0.3, 0.43, 0.27)
    assert (answer.status, answer.value) == (Status.REVIEW, "palliative")
    assert answer.reason == "confidence 0.43 is below 0.5"


def test_a_figure_just_under_its_bound_is_not_rounded_onto_it() -> None:
    assert settle(0.4999, 0.2, 0.3001).reason == "confidence 0.4999 is below 0.5"


def test_probability_outside_the_set_goes_to_review_with_the_figures() -> None:
    assert settle(0.9, 0.05, 0.05, off_set=0.9).status is Status.OK
    answer = settle(0.9, 0.05, 0.05, off_set=0.97)
    assert (answer.status, answer.off_set) == (Status.REVIEW, 0.97)
    assert answer.reason == "0.97 of the probability lay outside the labels, more than 0.9"


def test_both_doubts_are_told() -> None:
    assert settle(0.4, 0.3, 0.3, off_set=0.97).reason == (
        "confidence 0.40 is below 0.5; 0.97 of the probability lay outside the labels, more than 0.9"
    )


def test_an_abstention_has_a_status_and_no_value() -> None:
    answer = settle(0.1, 0.1, 0.1, 0.7, task=ABSTAINING)
    assert (answer.status, answer.value, answer.confidence) == (Status.ABSTAINED, None, None)
    assert answer.probabilities is not None
    assert answer.probabilities["cannot tell"] == pytest.approx(0.7)
    assert settle(0.7, 0.1, 0.1, 0.1, task=ABSTAINING).value == "curative"


def test_a_fault_becomes_an_answer_with_its_status_and_reason() -> None:
    assert decide(TASK, "r", Fault("r", Status.TOO_LONG, "9,000 tokens")) == Answer("r", Status.TOO_LONG, reason="9,000 tokens")


@pytest.mark.parametrize("branches", [(), (BranchScores((0.0,)),), (BranchScores((0.0, -1.0, -1.0)),) * 2])
def test_scores_for_other_candidates_than_asked_are_refused(branches: tuple[BranchScores, ...]) -> None:
    with pytest.raises(EngineError):
        decide(TASK, "r", Scores("r", branches))


@settings(deadline=None)
@given(st.tuples(*[st.floats()] * 4), st.none() | st.floats(0, 1))
def test_whatever_the_numbers_the_value_is_a_label_or_nothing(logprobs: tuple[float, ...], off_set: float | None) -> None:
    answer = decide(ABSTAINING, "r", Scores("r", (BranchScores(logprobs, off_set),)))
    if answer.value is None:
        assert answer.confidence is None
        assert answer.status in (Status.FAILED, Status.ABSTAINED)
    else:
        assert answer.value in {label.name for label in LABELS}
        assert answer.status in (Status.OK, Status.REVIEW)
    if answer.probabilities is not None:
        assert math.fsum(answer.probabilities.values()) == pytest.approx(1)
        assert list(answer.probabilities) == [label.name for label in ABSTAINING.candidates]
        assert answer.value is None or answer.confidence == max(answer.probabilities.values())
