from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from medtask.records import Answer, Prompt, Status, Value
from medtask.tables.read import read_table
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.task import Task
from medtask.training.search.gain import measure_gain, score_answers
from medtask.training.training_example import TrainingExample
from support.prompt_search import TASK, write_task


def make_training_examples(task: Task, rows: Sequence[dict[str, object]]) -> list[TrainingExample]:
    found = []
    for number, record in enumerate(read_records(task, read_table(rows)), 1):
        prompt = build_prompt(task, record)
        assert isinstance(prompt, Prompt)
        found.append(TrainingExample(number, record, prompt))
    return found


def make_answers(
    examples: Sequence[TrainingExample], values: Sequence[Value | None]
) -> list[Answer]:
    made = zip(examples, values, strict=True)
    return [
        Answer(one.record.id, Status.OK if value is not None else Status.FAILED, value, 0.9)
        for one, value in made
    ]


def make_gold_rows(gold: Sequence[str]) -> list[dict[str, object]]:
    return [
        {"case_id": f"c{number}", "procedure": f"operation {number}", "purpose": truth}
        for number, truth in enumerate(gold)
    ]


def test_a_gain_is_reported_with_its_interval_and_only_if_test_and_interval_show_it(
    tmp_path: Path,
) -> None:
    task = write_task(tmp_path)
    training_examples = make_training_examples(task, make_gold_rows(["curative"] * 60))
    poor = make_answers(training_examples, ["staging"] * 30 + ["curative"] * 30)
    better = make_answers(training_examples, ["curative"] * 60)
    gain = measure_gain(task, training_examples, poor, better)
    assert gain.is_significant
    assert gain.value.value == pytest.approx(0.5)
    assert gain.describe().startswith("accuracy 0.500 -> 1.000 on 60 test rows: gain 0.500 (0.")
    assert gain.explain_missing_gain() == ""
    same = measure_gain(task, training_examples, poor, poor)
    assert not same.is_significant
    assert "no difference at all" in same.explain_missing_gain()
    small = measure_gain(
        task,
        training_examples,
        poor,
        make_answers(training_examples, ["staging"] * 28 + ["curative"] * 32),
    )
    assert not small.is_significant
    assert "more rows with gold" in small.explain_missing_gain()
    worse = measure_gain(task, training_examples, better, poor)
    assert not worse.is_significant
    assert "worse" in worse.explain_missing_gain()


def test_each_row_has_its_own_part_of_the_measure(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    training_examples = make_training_examples(
        task, make_gold_rows(["curative", "staging", "staging"])
    )
    assert score_answers(
        task, training_examples, make_answers(training_examples, ["curative", "curative", None])
    ) == (pytest.approx(1 / 3), [1.0, 0.0, 0.0])


def test_several_labels_are_scored_by_their_f1(tmp_path: Path) -> None:
    task = write_task(tmp_path, text=TASK.replace("kind: label\n", "kind: labels\n"))
    training_examples = make_training_examples(
        task, make_gold_rows(["curative; staging", "staging", "palliative"])
    )
    value, scores = score_answers(
        task, training_examples, make_answers(training_examples, [("curative",), ("staging",), ()])
    )
    assert scores == [pytest.approx(2 / 3), 1.0, 0.0]
    assert value == pytest.approx(4 / 6)


def test_texts_are_scored_by_the_words_that_they_share(tmp_path: Path) -> None:
    text = (
        'instruction: Answer.\ninput: "{{ procedure }}"\nid: case_id\ngold: purpose\nanswer: '
        "{kind: answer}\n"
    )
    task = write_task(tmp_path, text=text)
    training_examples = make_training_examples(
        task, make_gold_rows(["remove the tumour", "ease pain"])
    )
    value, scores = score_answers(
        task, training_examples, make_answers(training_examples, ["remove the tumour", "nothing"])
    )
    assert scores == [1.0, 0.0]
    assert value == pytest.approx(0.5)


def test_objects_are_scored_by_their_fields(tmp_path: Path) -> None:
    schema = "{type: object, properties: {side: {enum: [left, right]}, size: {type: integer}}}"
    text = (
        'instruction: Read.\ninput: "{{ procedure }}"\nid: case_id\ngold: '
        f"purpose\nanswer: {{kind: fields, schema: {schema}}}\n"
    )
    task = write_task(tmp_path, text=text)
    training_examples = make_training_examples(
        task, make_gold_rows(['{"side": "left", "size": 3}', '{"side": "right", "size": 4}'])
    )
    values: list[Value | None] = [{"side": "left", "size": 3}, {"side": "right", "size": 5}]
    value, scores = score_answers(task, training_examples, make_answers(training_examples, values))
    assert scores == [1.0, 0.5]
    assert value == pytest.approx(0.75)


def test_a_gain_in_every_row_is_significant(tmp_path: Path) -> None:
    """The bootstrap has no spread, and so no interval."""
    task = write_task(tmp_path)
    training_examples = make_training_examples(task, make_gold_rows(["curative"] * 60))
    gain = measure_gain(
        task,
        training_examples,
        make_answers(training_examples, ["staging"] * 60),
        make_answers(training_examples, ["curative"] * 60),
    )
    assert gain.value.low is None
    assert gain.is_significant
    assert "No significant gain" not in gain.summarize()
