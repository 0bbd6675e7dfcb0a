from __future__ import annotations

import csv
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medtask.tasks.rows import read_records
from medtask.tasks.task import Example, Task
from medtask.training.cleaning import CleaningReport, DropReason, clean_rows, write_cleaning_report
from medtask.training.training_example import TrainingExample, list_labels
from support.small_trainings import make_task

Row = Mapping[str, object]


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return make_task(tmp_path)


def clean_task_rows(
    task: Task, rows: Sequence[Row], **more: Any
) -> tuple[tuple[TrainingExample, ...], CleaningReport]:
    return clean_rows(task, read_records(task, rows), **more)


def make_rows(*pairs: tuple[object, object]) -> list[Row]:
    return [{"text": text, "gold": gold} for text, gold in pairs]


def list_reasons(cleaning: CleaningReport) -> list[tuple[int, DropReason]]:
    return [(one.row, one.reason) for one in cleaning.dropped]


def test_each_reason_is_reported_row_by_row(task: Task) -> None:
    rows = make_rows(
        ("MRI knee", "knee"),
        ("MRI wrist", None),
        (None, "knee"),
        ("MRI brain", "brian"),
        ("... !!", "brain"),
        ("mri  KNEE", "knee"),
        ("CT brain", "brain"),
    )
    examples, cleaning = clean_task_rows(task, rows)
    assert [example.row for example in examples] == [1, 7]
    assert list_reasons(cleaning) == [
        (2, DropReason.NO_GOLD),
        (3, DropReason.EMPTY),
        (4, DropReason.UNKNOWN_GOLD),
        (5, DropReason.NOT_ASKABLE),
        (6, DropReason.DUPLICATE),
    ]
    output = {one.row: one.explanation for one in cleaning.dropped}
    assert output[4] == 'gold is not a label of the task, probably "brain"'
    assert output[6] == "row 1 asks the same and has the same gold"
    assert cleaning.label_counts == {"knee": 1, "wrist": 0, "brain": 1}
    assert cleaning.label_suggestions == {"brian": "brain"}
    assert cleaning.describe() == [
        "7 rows read, 2 usable",
        "1 row left out: no gold (row 2)",
        '1 row left out: gold is not an answer of the task (row 4; "brian" is probably "brain")',
        "1 row left out: no text (row 3)",
        "1 row left out: a run would not send them to the model either (row 5)",
        "1 row left out: same question and same gold as an earlier row (row 6)",
    ]
    assert cleaning.to_json()["dropped"] == {
        "no gold": 1,
        "unknown gold": 1,
        "empty": 1,
        "not askable": 1,
        "duplicate": 1,
    }


def test_gold_in_another_case_is_used_and_counted(task: Task) -> None:
    rows = make_rows(*((f"MRI knee {number}", "KNEE") for number in range(3)), ("CT brain", "n/a"))
    examples, cleaning = clean_task_rows(task, rows)
    assert [example.record.gold for example in examples] == ["knee"] * 3
    assert cleaning.list_notes()[0] == "1 row left out: no gold (row 4)"
    assert "3 of 3 values of the gold column match after normalisation only" in " ".join(
        cleaning.list_notes()
    )
    assert cleaning.to_json()["gold"]["normalized"] == 3


def test_values_that_resemble_no_label_are_counted_but_not_shown(task: Task) -> None:
    rows = make_rows(("MRI knee", "Mrs Example, born in May"), ("CT brain", "brain"))
    _, cleaning = clean_task_rows(task, rows)
    assert cleaning.list_notes() == ["1 row left out: gold is not an answer of the task (row 1)"]


@given(st.lists(st.sampled_from(["knee", "Wrist", "brian", "", "NA", "elbow", "x"]), max_size=12))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_used_or_counted_in_a_note(task: Task, golds: list[str]) -> None:
    rows = make_rows(*((f"text {number}", gold) for number, gold in enumerate(golds)))
    examples, cleaning = clean_task_rows(task, rows)
    counted = sum(
        int(note.split(" row")[0]) for note in cleaning.list_notes() if "left out" in note
    )
    assert len(examples) + counted == len(golds)


def test_two_thirds_outvote_the_rest(task: Task) -> None:
    examples, cleaning = clean_task_rows(
        task, make_rows(("the leg", "brain"), ("the leg", "knee"), ("The leg", "knee"))
    )
    assert [(example.row, example.record.gold) for example in examples] == [(2, "knee")]
    assert list_reasons(cleaning) == [(1, DropReason.OUTVOTED), (3, DropReason.DUPLICATE)]
    assert (
        cleaning.dropped[0].explanation
        == "2 of 3 rows that ask the same have different gold, as row 2 does"
    )


def test_without_a_majority_none_is_believed(task: Task) -> None:
    rows = make_rows(
        *[
            ("the arm", gold)
            for gold in ("wrist", "knee", "wrist", "brain", "wrist", "knee", "knee")
        ],
        ("the head", "brain"),
    )
    examples, cleaning = clean_task_rows(task, rows)
    assert [example.row for example in examples] == [8]
    assert set(list_reasons(cleaning)) == {(row, DropReason.CONFLICT) for row in range(1, 8)}
    assert (
        cleaning.dropped[0].explanation
        == "the rows 1, 2, 3, 4, 5, … ask the same and have 3 different answers"
    )


def test_questions_may_have_several_answers(tmp_path: Path) -> None:
    task = make_task(tmp_path, "answer")
    rows = make_rows(
        *[("What is gout?", result) for result in ("A joint disease.", "Crystals.", "Crystals.")],
        ("Why?", "\u200b"),
    )
    examples, cleaning = clean_task_rows(task, rows)
    assert [example.record.gold for example in examples] == ["A joint disease.", "Crystals."]
    assert list_reasons(cleaning) == [(3, DropReason.DUPLICATE), (4, DropReason.NO_GOLD)]
    assert cleaning.label_counts == {}


def test_options_are_part_of_the_question(tmp_path: Path) -> None:
    task = make_task(tmp_path, "choice", options="options")
    rows = [
        {"text": "Which?", "options": {"A": "one", "B": "two"}, "gold": "A"},
        {"text": "Which?", "options": {"A": "two", "B": "one"}, "gold": "B"},
        {"text": "Which?", "options": {"A": "one", "B": "two"}, "gold": "one"},
        {"text": "Which?", "options": {"A": "one", "B": "two"}, "gold": "three"},
        {"text": "Which?", "options": None, "gold": "A"},
    ]
    examples, cleaning = clean_task_rows(task, rows)
    assert [example.row for example in examples] == [1, 2]
    assert list_reasons(cleaning) == [
        (3, DropReason.DUPLICATE),
        (4, DropReason.UNKNOWN_GOLD),
        (5, DropReason.NOT_ASKABLE),
    ]


def test_the_context_is_part_of_the_question(tmp_path: Path) -> None:
    task = make_task(tmp_path, "answer", context="context")
    rows = [
        {"text": "Why?", "context": context, "gold": "so"} for context in ("rain", "sun", "rain")
    ]
    examples, _ = clean_task_rows(task, rows)
    assert [example.row for example in examples] == [1, 2]


def test_objects_that_differ_are_contradictions(tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"size": {"type": "integer"}, "side": {"enum": ["left", "right"]}},
    }
    task = make_task(tmp_path, "fields", schema=schema)
    rows = make_rows(
        ("a", '{"size": 1, "side": "left"}'),
        ("a", '{"side": "left", "size": 1}'),
        ("b", '{"size": 1}'),
        ("b", '{"size": 2}'),
    )
    rows += make_rows(("c", "no object"), ("d", {"size": 3, "side": "right"}))
    examples, cleaning = clean_task_rows(task, rows)
    assert [example.row for example in examples] == [1, 6]
    assert list_reasons(cleaning) == [
        (2, DropReason.DUPLICATE),
        (3, DropReason.CONFLICT),
        (4, DropReason.CONFLICT),
        (5, DropReason.UNKNOWN_GOLD),
    ]


def test_no_label_is_gold_too(tmp_path: Path) -> None:
    task = make_task(tmp_path, "labels", ["knee", "fall"])
    examples, cleaning = clean_task_rows(
        task, make_rows(("x", []), ("y", ["knee", "fall"]), ("z", None), ("w", "fall; hip"))
    )
    assert [example.record.gold for example in examples] == [(), ("knee", "fall")]
    assert cleaning.label_counts == {"knee": 1, "fall": 1}
    assert list_reasons(cleaning) == [(3, DropReason.NO_GOLD), (4, DropReason.UNKNOWN_GOLD)]


def test_rows_of_rare_labels_go_until_none_is_rare(tmp_path: Path) -> None:
    task = make_task(tmp_path, "labels", ["knee", "wrist", "fall"])
    golds = [["fall"], ["wrist", "fall"], ["wrist"], ["knee"], ["knee"], []]
    examples, cleaning = clean_task_rows(
        task,
        make_rows(*[(f"note {number}", gold) for number, gold in enumerate(golds)]),
        min_count=2,
    )
    assert len(examples) == 6
    examples, cleaning = clean_task_rows(
        task,
        make_rows(*[(f"note {number}", gold) for number, gold in enumerate(golds[1:])]),
        min_count=2,
    )
    # Without the only row of "fall", "wrist" is rare as well.
    assert [example.row for example in examples] == [3, 4, 5]
    assert list_reasons(cleaning) == [(1, DropReason.RARE_LABEL), (2, DropReason.RARE_LABEL)]
    assert cleaning.label_counts == {"knee": 2, "wrist": 0, "fall": 0}


def test_a_cap_keeps_the_same_rows_in_any_order(task: Task) -> None:
    rows = make_rows(
        *[(f"note {number}", "knee" if number % 4 else "brain") for number in range(40)]
    )
    examples, cleaning = clean_task_rows(task, rows, cap=5, seed=1)
    assert cleaning.label_counts == {"knee": 5, "wrist": 0, "brain": 5}
    assert cleaning.dropped_counts == {DropReason.ABOVE_CAP: 30}
    kept = {example.prompt.text for example in examples}
    assert {
        example.prompt.text for example in clean_task_rows(task, rows[::-1], cap=5, seed=1)[0]
    } == kept
    assert {
        example.prompt.text for example in clean_task_rows(task, rows, cap=5, seed=2)[0]
    } != kept


def test_worked_examples_are_not_learnt_again(tmp_path: Path) -> None:
    task = make_task(tmp_path)
    shown = replace(task, examples=(Example({"text": "MRI of the knee"}, "knee"),))
    training_examples, cleaning = clean_task_rows(
        shown, make_rows(("mri of the KNEE", "knee"), ("CT brain", "brain"))
    )
    assert [example.row for example in training_examples] == [2]
    assert list_reasons(cleaning) == [(1, DropReason.WORKED_EXAMPLE)]


CELLS = st.one_of(
    st.none(),
    st.sampled_from(
        ["knee", "KNEE ", "", "nan", "=1+1", "wrist\x00", "\ud800", "a b", "A  B", "brain 😀"]
    ),
)
GOLD = st.sampled_from([None, "knee", "wrist", "brain", "nose"])


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(CELLS, GOLD), max_size=30),
    st.integers(1, 3),
    st.sampled_from([None, 1, 3]),
    st.integers(0, 3),
)
def test_every_row_is_kept_or_dropped_for_one_reason(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[Any, Any]],
    least: int,
    cap: int | None,
    seed: int,
) -> None:
    task = make_task(tmp_path_factory.getbasetemp() / "any")
    examples, cleaning = clean_task_rows(
        task, make_rows(*rows), min_count=least, cap=cap, seed=seed
    )
    indices = [example.row for example in examples] + [one.row for one in cleaning.dropped]
    assert sorted(indices) == list(range(1, len(rows) + 1))
    assert (cleaning.rows, cleaning.kept, sum(cleaning.dropped_counts.values())) == (
        len(rows),
        len(examples),
        len(cleaning.dropped),
    )
    counts = Counter(
        name for example in examples for name in list_labels(task, example.record.gold)
    )
    assert all(count <= (cap or 30) for count in counts.values())
    texts = [example.prompt.text.casefold().replace(" ", "") for example in examples]
    assert len(set(texts)) == len(texts)


def test_the_file_names_rows_and_no_text(task: Task, tmp_path: Path) -> None:
    task = replace(task, id_column="id")
    rows = [
        {"id": "=cmd()", "text": "a secret", "gold": "another secret"},
        {"id": "b\ud800", "text": None, "gold": "knee"},
    ]
    _, cleaning = clean_task_rows(task, rows)
    path = tmp_path / "cleaning.csv"
    write_cleaning_report(path, cleaning)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    assert [(row["row"], row["id"], row["what"]) for row in found] == [
        ("1", "'=cmd()", "unknown gold"),
        ("2", "b\ufffd", "empty"),
    ]
    assert "secret" not in path.read_text()
