"""One label: the most probable one, or the abstention."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.prediction.deciding import decide_answer
from medtask.records import (
    BranchScores,
    Status,
)
from support.scored_answers import (
    ABSTAINING,
    LABELS,
    decide_label,
    make_output,
)


def test_the_most_probable_label_is_the_answer() -> None:
    answer = decide_label(0.2, 0.7, 0.1)
    assert (answer.status, answer.value, answer.reason) == (Status.OK, "palliative", None)
    assert answer.confidence == pytest.approx(0.7)
    assert answer.probabilities == pytest.approx(
        {"curative": 0.2, "palliative": 0.7, "staging": 0.1}
    )
    assert (answer.tokens_read, answer.tokens_reused) == (7, 9)


def test_on_a_tie_the_first_label_wins() -> None:
    assert decide_label(0.1, 0.45, 0.45).value == "palliative"


def test_a_label_may_have_probability_zero() -> None:
    answer = decide_label(0.0, 1.0, 0.0)
    assert (answer.value, answer.confidence) == ("palliative", 1.0)


def test_an_abstention_has_a_status_and_no_value() -> None:
    answer = decide_label(0.1, 0.1, 0.1, 0.7, task=ABSTAINING)
    assert (answer.status, answer.value, answer.confidence) == (Status.ABSTAINED, None, None)
    assert answer.probabilities is not None
    assert answer.probabilities["cannot tell"] == pytest.approx(0.7)
    assert decide_label(0.7, 0.1, 0.1, 0.1, task=ABSTAINING).value == "curative"


@settings(deadline=None)
@given(st.tuples(*[st.floats()] * 4), st.none() | st.floats(0, 1))
def test_for_any_scores_the_value_is_a_label_or_none(
    logprobs: tuple[float, ...], off_set: float | None
) -> None:
    answer = decide_answer(
        ABSTAINING, "r", make_output(BranchScores(logprobs, off_set), task=ABSTAINING)
    )
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
