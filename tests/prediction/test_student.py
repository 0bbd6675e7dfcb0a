from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from medtask.prediction.student import (
    TaughtRows,
    fit_student,
    measure_agreement,
    predict_held_out_answers,
)
from medtask.records import Answer, Status
from medtask.tasks.task import STUDENT_PASS, Label, MultiLabel, Task

NAMES = ("colon", "liver")
TASK = Task("site", "Which organ?", "{{ text }}", labels=tuple(Label(n, "", n) for n in NAMES))
SEVERAL = replace(TASK, answer_spec=MultiLabel(thresholds={"colon": 0.99}))


def teach(task: Task, count: int = 120) -> TaughtRows:
    """Texts with one or, for several labels, both organs."""
    texts, answers = [], []
    for number in range(count):
        names = [name for place, name in enumerate(NAMES) if number % (2 + place) == 0]
        value = tuple(names) if task.several else (names or ["liver"])[0]
        words = " and ".join(names or ([] if task.several else ["liver"]))
        texts.append(f"resection of {words} case {number}")
        answers.append(Answer(str(number), Status.OK, value=value, confidence=0.9))
    return TaughtRows(texts, answers, [None] * count)


@pytest.mark.parametrize("task", [TASK, SEVERAL], ids=["label", "labels"])
def test_a_student_gives_the_answers_that_it_was_taught(task: Task) -> None:
    taught = teach(task)
    student = fit_student(task, taught)
    assert student is not None
    answers = student.answer(["a"] * len(taught), taught.texts)
    confidence, differs = measure_agreement(task, answers, taught.answers)
    assert differs.mean() < 0.05
    assert ((confidence > 0) & (confidence <= 1)).all()
    assert {answer.pass_name for answer in answers} == {STUDENT_PASS}
    assert answers[0].probabilities is not None
    assert list(answers[0].probabilities) == list(NAMES)


def test_a_student_learns_when_to_abstain() -> None:
    task = replace(TASK, abstain=Label("unclear", "", "unclear"))
    taught = teach(task)
    unclear = [Answer(str(number), Status.ABSTAINED) for number in range(60)]
    both = TaughtRows(
        [*taught.texts, *(f"nothing known {number}" for number in range(60))],
        [*taught.answers, *unclear],
        [None] * 180,
    )
    student = fit_student(task, both)
    assert student is not None
    answer = student.answer(["new"], ["nothing known 99"])[0]
    assert (answer.status, answer.value) == (Status.ABSTAINED, None)
    confidence, differs = measure_agreement(task, [answer], unclear[:1])
    assert confidence[0] > 0.5
    assert not differs[0]


def test_an_answer_differs_from_a_failure_of_the_model() -> None:
    answer = Answer("1", Status.OK, value="colon", confidence=0.9)
    _, differs = measure_agreement(TASK, [answer], [Answer("1", Status.FAILED)])
    assert differs.tolist() == [True]


def test_rows_that_the_model_could_not_answer_are_not_taught() -> None:
    taught = teach(TASK)
    failed = replace(taught, answers=[Answer("1", Status.FAILED), *taught.answers[1:]])
    assert fit_student(TASK, failed) is not None


@pytest.mark.parametrize("texts", [["colon"] * 30, [""] * 30], ids=["one answer", "no words"])
def test_no_student_is_fitted_on_one_answer_or_on_texts_without_words(texts: list[str]) -> None:
    answers = [
        Answer("1", Status.OK, value=NAMES[number % 2 if not texts[0] else 0])
        for number in range(30)
    ]
    taught = TaughtRows(texts, answers, [None] * 30)
    assert fit_student(TASK, taught) is None
    confidence, differs = predict_held_out_answers(TASK, taught, np.ones(len(taught), dtype=bool))
    assert len(confidence) == len(differs) == 0


def test_held_out_rows_share_no_group_with_the_rows_that_were_learnt() -> None:
    # The text says only which patient it is, and each patient has one answer.
    chance = random.Random(2)
    patients = [(chance.choice("abcdefgh") * 4 + str(n), chance.choice(NAMES)) for n in range(40)]
    texts = [patients[number // 5][0] for number in range(200)]
    answers = [
        Answer(str(number), Status.OK, value=patients[number // 5][1]) for number in range(200)
    ]
    apart = TaughtRows(texts, answers, [f"p{number // 5}" for number in range(200)])
    _, differs = predict_held_out_answers(TASK, apart, np.ones(200, dtype=bool))
    assert np.mean(differs) > 0.3
