from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from medtask.data.read import read_table
from medtask.records import Answer, Prompt, Status, Value
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task
from medtask.train.lesson import Lesson
from medtask.train.search.gain import hold_against, score_rows
from train.search.planted import TASK, write_task


def lessons_of(task: Task, rows: Sequence[dict[str, object]]) -> list[Lesson]:
    found = []
    for number, record in enumerate(read_records(task, read_table(rows)), 1):
        prompt = build_prompt(task, record)
        assert isinstance(prompt, Prompt)
        found.append(Lesson(number, record, prompt))
    return found


def answers_to(lessons: Sequence[Lesson], values: Sequence[Value | None]) -> list[Answer]:
    made = zip(lessons, values, strict=True)
    return [
        Answer(one.record.id, Status.OK if value is not None else Status.FAILED, value, 0.9)
        for one, value in made
    ]


def rows_of(gold: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"case_id": f"c{number}", "procedure": f"operation {number}", "purpose": truth}
        for number, truth in enumerate(gold)
    ]


def test_a_gain_is_told_with_its_interval_and_shown_only_where_test_and_interval_say_so(
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path)
    lessons = lessons_of(task, rows_of(["curative"] * 60))
    poor = answers_to(lessons, ["staging"] * 30 + ["curative"] * 30)
    better = answers_to(lessons, ["curative"] * 60)
    gain = hold_against(task, lessons, poor, better)
    assert gain.shown
    assert gain.value.value == pytest.approx(0.5)
    assert gain.tell().startswith("accuracy 0.500 -> 1.000 on 60 test rows: gain 0.500 (0.")
    assert gain.need() == ""
    same = hold_against(task, lessons, poor, poor)
    assert not same.shown
    assert "no difference at all" in same.need()
    small = hold_against(
        task, lessons, poor, answers_to(lessons, ["staging"] * 28 + ["curative"] * 32)
    )
    assert not small.shown
    assert "more rows with gold" in small.need()
    worse = hold_against(task, lessons, better, poor)
    assert not worse.shown
    assert "worse" in worse.need()


def test_each_row_has_its_own_part_of_the_measure(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    lessons = lessons_of(task, rows_of(["curative", "staging", "staging"]))
    assert score_rows(task, lessons, answers_to(lessons, ["curative", "curative", None])) == (
        pytest.approx(1 / 3),
        [1.0, 0.0, 0.0],
    )


def test_several_labels_are_scored_by_their_f1(tmp_path: Path) -> None:
    task = write_task(tmp_path, text=TASK.replace("kind: label\n", "kind: labels\n"))
    lessons = lessons_of(task, rows_of(["curative; staging", "staging", "palliative"]))
    value, scores = score_rows(
        task, lessons, answers_to(lessons, [("curative",), ("staging",), ()])
    )
    assert scores == [pytest.approx(2 / 3), 1.0, 0.0]
    assert value == pytest.approx(4 / 6)


def test_texts_are_scored_by_the_words_that_they_share(tmp_path: Path) -> None:
    text = (
        'instruction: Answer.\ninput: "{{ procedure }}"\nid: case_id\ngold: purpose\nanswer: '
        "{kind: answer}\n"
    )
    task = write_task(tmp_path, text=text)
    lessons = lessons_of(task, rows_of(["remove the tumour", "ease pain"]))
    value, scores = score_rows(task, lessons, answers_to(lessons, ["remove the tumour", "nothing"]))
    assert scores == [1.0, 0.0]
    assert value == pytest.approx(0.5)


def test_objects_are_scored_by_their_fields(tmp_path: Path) -> None:
    schema = "{type: object, properties: {side: {enum: [left, right]}, size: {type: integer}}}"
    text = (
        'instruction: Read.\ninput: "{{ procedure }}"\nid: case_id\ngold: '
        f"purpose\nanswer: {{kind: fields, schema: {schema}}}\n"
    )
    task = write_task(tmp_path, text=text)
    lessons = lessons_of(
        task, rows_of(['{"side": "left", "size": 3}', '{"side": "right", "size": 4}'])
    )
    values: list[Value | None] = [{"side": "left", "size": 3}, {"side": "right", "size": 5}]
    value, scores = score_rows(task, lessons, answers_to(lessons, values))
    assert scores == [1.0, 0.5]
    assert value == pytest.approx(0.75)
