from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medtask.engines.fake import FakeEngine
from medtask.prediction.passes import meets_condition, merge_pass_answer
from medtask.prediction.predictor import RowAnswer, answer_rows, predict_uncalibrated
from medtask.records import Answer, PassStep, Record, Scores, Status
from medtask.tasks.task import Label, Pass, PassCondition, Task

LABELS = tuple(Label(name, "", name) for name in ("curative", "palliative", "other"))
SECOND = Task("purpose", "Look again.", "{{ text }}", labels=LABELS[:2], fingerprint="second")
THIRD = Task("purpose", "And again.", "{{ text }}", labels=LABELS, fingerprint="third")
TASK = Task(
    "purpose",
    "Which purpose?",
    "{{ text }}",
    labels=LABELS,
    passes=(
        Pass("refine", PassCondition(answer_in=("other",)), SECOND),
        Pass("doubt", PassCondition(confidence_below=0.7), THIRD),
    ),
    fingerprint="first",
)


class BatchRecordingEngine(FakeEngine):
    """Keeps the batches that it was asked: the question, and the texts in each."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.batches: list[tuple[str, ...]] = []

    def score_batch(self, batch: Any) -> list[Scores]:
        self.batches.append(
            tuple(f"{prompt.messages[-1].content[:5]} {prompt.text}" for prompt in batch)
        )
        return super().score_batch(batch)


class DictCache:
    """The plainest memory: everything, in a dictionary."""

    def __init__(self) -> None:
        self.answers_by_row: dict[int, RowAnswer] = {}

    def list_answered_rows(self, first: int, last: int) -> set[int]:
        return {row for row in self.answers_by_row if first <= row <= last}

    def find_answers_before(self, row: int, keys: Collection[bytes]) -> dict[bytes, Answer]:
        earlier = sorted(
            (one for one in self.answers_by_row.values() if one.row < row and one.key in keys),
            key=lambda one: -one.row,
        )
        return {one.key: one.answer for one in earlier if one.key is not None}


def make_records(words: Collection[str]) -> list[Record]:
    return [Record(f"case-{row}", {"text": word}) for row, word in enumerate(words, 1)]


OK = Answer("r", Status.OK, "other", 0.6, {"other": 0.6}, ms=1.0, tokens_read=2)


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (PassCondition(confidence_below=0.61), True),
        (PassCondition(confidence_below=0.6), False),
        (PassCondition(status=(Status.OK,)), True),
        (PassCondition(status=(Status.ABSTAINED, Status.REVIEW)), False),
        (PassCondition(answer_in=("curative", "other")), True),
        (PassCondition(answer_in=("curative",)), False),
        (PassCondition(confidence_below=0.1, status=(Status.OK,)), True),
    ],
)
def test_an_answer_that_meets_any_condition_is_asked_about_again(
    when: PassCondition, expected: bool
) -> None:
    assert meets_condition(when, OK) is expected


def test_any_of_several_labels_is_enough() -> None:
    assert meets_condition(PassCondition(answer_in=("b",)), Answer("r", Status.OK, ("a", "b"), 0.9))
    assert not meets_condition(
        PassCondition(answer_in=("c",)), Answer("r", Status.OK, ("a", "b"), 0.9)
    )


def test_a_row_that_never_reached_the_model_is_not_asked_again() -> None:
    assert not meets_condition(
        PassCondition(status=(Status.EMPTY_INPUT,)), Answer("r", Status.EMPTY_INPUT)
    )


def test_the_later_answer_takes_over_and_the_earlier_is_kept_as_a_step() -> None:
    after = merge_pass_answer(
        OK, Answer("r", Status.REVIEW, "curative", 0.4, ms=3.0, tokens_read=5), "refine"
    )
    assert (after.value, after.status, after.pass_name) == ("curative", Status.REVIEW, "refine")
    assert after.steps == (PassStep("first", Status.OK, "other", 0.6),)
    assert (after.ms, after.tokens_read) == (4.0, 7)


def test_a_pass_that_gives_no_answer_leaves_the_one_before() -> None:
    after = merge_pass_answer(
        OK, Answer("r", Status.TOO_LONG, reason="9 tokens too many"), "refine"
    )
    assert (after.value, after.status, after.pass_name) == ("other", Status.OK, "refine")
    assert (
        after.reason
        == 'the pass "refine" gave no answer (9 tokens too many): the one before it is kept'
    )


def test_each_pass_asks_only_the_rows_that_meet_its_conditions() -> None:
    engine = BatchRecordingEngine(batch=100)
    answers = list(
        predict_uncalibrated(TASK, engine, make_records([f"text {number}" for number in range(60)]))
    )
    first, refined, doubted = engine.batches
    assert len(first) == 60
    assert 0 < len(refined) < 60
    by_pass = {
        name: [answer for answer in answers if answer.pass_name == name]
        for name in ("first", "refine", "doubt")
    }
    assert all(
        answer.value != "other" and (answer.confidence or 0) >= 0.7 for answer in by_pass["first"]
    )
    assert all(answer.steps[0].value == "other" for answer in by_pass["refine"])
    assert all(answer.value in ("curative", "palliative") for answer in by_pass["refine"])
    assert len(by_pass["doubt"]) == len(doubted) > 0
    assert len(refined) == sum(
        any("refine" in (step.pass_name, answer.pass_name) for step in answer.steps)
        for answer in answers
    )


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.sampled_from(["", *(f"text {number}" for number in range(20))]), min_size=1, max_size=24
    ),
    st.integers(0, 24),
    st.integers(1, 5),
)
def test_an_interrupted_run_asks_every_pass_in_the_batches_of_an_undisturbed_one(
    words: list[str], stop: int, batch: int
) -> None:
    full, undisturbed = BatchRecordingEngine(batch=batch), DictCache()
    for one in answer_rows(TASK, full, make_records(words), undisturbed, window=10):
        undisturbed.answers_by_row[one.row] = one
    book = DictCache()
    for count, one in enumerate(
        answer_rows(TASK, BatchRecordingEngine(batch=batch), make_records(words), book, window=10)
    ):
        if count == stop:
            break
        book.answers_by_row[one.row] = one
    resumed = BatchRecordingEngine(batch=batch)
    for one in answer_rows(TASK, resumed, make_records(words), book, window=10):
        book.answers_by_row[one.row] = one
    assert book.answers_by_row == undisturbed.answers_by_row
    assert set(resumed.batches) <= set(full.batches)


def test_a_pass_may_have_a_model_of_its_own() -> None:
    refine = Pass("refine", PassCondition(confidence_below=1.0), SECOND, "fake:seed=7")
    task = Task("purpose", "Which?", "{{ text }}", labels=LABELS, passes=(refine,))
    first, second = FakeEngine(), FakeEngine(seed=7)
    answers = [
        one.answer
        for one in answer_rows(
            task, first, make_records(["a", "b"]), DictCache(), pass_engines={"fake:seed=7": second}
        )
    ]
    assert (first.prompt_count, second.prompt_count) == (2, 2)
    assert {answer.pass_name for answer in answers} == {"refine"}
    assert list(predict_uncalibrated(task, FakeEngine(), make_records(["a", "b"]))) == sorted(
        answers, key=lambda answer: answer.record_id
    )


def test_a_prompt_that_cannot_be_built_for_a_pass_leaves_the_answer_before() -> None:
    unfit = Task("purpose", "Again.", "{{ missing }}", labels=LABELS)
    task = Task(
        "purpose",
        "Which?",
        "{{ text }}",
        labels=LABELS,
        passes=(Pass("refine", PassCondition(confidence_below=1.0), unfit),),
    )
    (answer,) = predict_uncalibrated(task, FakeEngine(), make_records(["a"]))
    assert answer.value is not None
    assert answer.reason is not None
    assert 'the pass "refine" gave no answer' in answer.reason
