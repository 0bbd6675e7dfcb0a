"""The result of an item from what people decided."""

from __future__ import annotations

import pytest

from medtask.server.review.consensus import Verdict, find_consensus
from medtask.server.review.tables import ItemState
from medtask.tasks.answer_form import AnswerChoice, AnswerForm

ONE = AnswerForm("one", (AnswerChoice("a", "a"), AnswerChoice("b", "b")))
A, B = Verdict("answer", "a"), Verdict("answer", "b")
UNCLEAR, SKIPPED, WITHDRAWN = (Verdict(name) for name in ("cannot_tell", "skipped", "withdrawn"))


@pytest.mark.parametrize(
    ("verdicts", "wanted", "expected"),
    [
        ([], 1, (ItemState.OPEN, 0, None)),
        ([A], 1, (ItemState.AGREED, 1, "a")),
        ([A], 2, (ItemState.OPEN, 1, None)),
        ([A, A], 2, (ItemState.AGREED, 2, "a")),
        ([A, B], 2, (ItemState.DISPUTED, 2, None)),
        ([A, B], 1, (ItemState.DISPUTED, 2, None)),
        ([A, SKIPPED, WITHDRAWN], 2, (ItemState.OPEN, 1, None)),
        ([UNCLEAR], 1, (ItemState.DISPUTED, 1, None)),
        ([UNCLEAR, UNCLEAR], 2, (ItemState.DISPUTED, 2, None)),
    ],
)
def test_readers_determine_the_result_once_there_are_enough(verdicts, wanted, expected):
    assert find_consensus(ONE, verdicts, wanted) == expected


@pytest.mark.parametrize(
    ("adjudicated", "expected"),
    [
        (B, (ItemState.SETTLED, 2, "b")),
        (UNCLEAR, (ItemState.SETTLED, 2, None)),
        (WITHDRAWN, (ItemState.DISPUTED, 2, None)),
    ],
)
def test_an_adjudication_determines_the_result_until_it_is_withdrawn(adjudicated, expected):
    assert find_consensus(ONE, [A, B], 2, adjudicated) == expected


def test_free_texts_that_differ_in_spelling_only_agree():
    texts = [Verdict("answer", "Narrow airways."), Verdict("answer", "narrow airways")]
    found = find_consensus(AnswerForm("text"), texts, 2)
    assert (found.state, found.value) == (ItemState.AGREED, "Narrow airways.")
