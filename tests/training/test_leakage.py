from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medtask.tasks.task import Task
from medtask.training.leakage import LeakageReport, find_leakage, index_questions
from support.small_trainings import make_task, make_training_examples

TEXTS = [
    "MRI of the left knee after a fall on the stairs",
    "MRI of the left knee after a fall on the stairs, again",
    "mri of the left knee after a fall on the STAIRS",
    "CT of the brain because of a thunderclap headache",
    "radiograph of the wrist, no trauma",
]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return replace(make_task(tmp_path), group_column="patient")


def find_text_leaks(
    task: Task,
    texts: Sequence[str],
    validation_rows: Sequence[int],
    groups: Sequence[str | None] | None = None,
) -> LeakageReport:
    rows = [
        {"text": text, "gold": "knee", "patient": group}
        for text, group in zip(texts, groups or [None] * len(texts), strict=True)
    ]
    questions = index_questions(task, make_training_examples(task, rows))
    return find_leakage(questions, np.isin(questions.positions, validation_rows))


def test_equal_and_near_texts_are_distinguished(task: Task) -> None:
    leaks = find_text_leaks(task, TEXTS, [1, 2])
    assert (leaks.validation, leaks.equal, leaks.near) == (2, 1, 1)
    assert leaks.share == 1.0
    assert [(pair.train_row, pair.validation_row) for pair in leaks.worst] == [(1, 3), (1, 2)]
    assert leaks.worst[0].likeness == 1.0 > leaks.worst[1].likeness >= 0.8
    lines = leaks.describe()
    assert lines[0] == "1 of 2 validation rows ask the same as a training row"
    assert (
        lines[1]
        == "1 more of 2 validation rows nearly repeat a training row (similarity 0.8 or more)"
    )
    assert lines[2].startswith("the most similar rows are 3 and 1 (1.00), 2 and 1 (0.8")
    assert not any("knee" in line for line in lines)


def test_no_leak_is_reported_too(task: Task) -> None:
    leaks = find_text_leaks(task, TEXTS, [3, 4], ["p", "p", "p", "q", None])
    assert leaks == LeakageReport(validation=2)
    assert leaks.describe() == [
        "none: no group and no text (similarity 0.8 or more) is in both parts"
    ]
    assert leaks.to_json()["worst"] == []


def test_groups_on_both_sides(task: Task) -> None:
    leaks = find_text_leaks(task, TEXTS, [3, 4], ["p", "q", None, "p", "p"])
    assert (leaks.groups, leaks.group_rows, leaks.equal) == (1, 2, 0)
    assert leaks.describe() == ["1 group is in both parts, with 2 of 2 validation rows"]


def test_options_in_another_order_are_a_near_duplicate(tmp_path: Path) -> None:
    task = make_task(tmp_path, "choice", options="options")
    options = [f"an option about the {part}" for part in ("knee", "wrist", "brain", "elbow")]
    rows = [
        {"text": "Which part hurts?", "options": order, "gold": "A"}
        for order in (options, options[::-1])
    ]
    questions = index_questions(task, make_training_examples(task, rows))
    leaks = find_leakage(questions, questions.positions == 1)
    assert (leaks.equal, leaks.near) == (0, 1)


def test_the_report_in_numbers(task: Task) -> None:
    document = find_text_leaks(task, TEXTS, [1]).to_json()
    assert document.pop("worst") == [
        {"train_row": 1, "validation_row": 2, "likeness": pytest.approx(0.86, abs=0.06)},
        {"train_row": 3, "validation_row": 2, "likeness": pytest.approx(0.86, abs=0.06)},
    ]
    assert document == {
        "validation": 1,
        "equal": 0,
        "near": 1,
        "groups": 0,
        "group_rows": 0,
        "bound": 0.8,
        "share": 1.0,
    }
