"""Answers read again: from the folder of a run of every kind, and from tables of other tools."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from medtask.engines.fake import FakeEngine
from medtask.errors import InputError, MedtaskError, TableError, UsageError
from medtask.records import Status
from medtask.runs.comparison import compare
from medtask.runs.evaluation import evaluate
from medtask.runs.ledger import Ledger
from medtask.runs.local_run import run
from medtask.runs.open_answers import open_answers
from medtask.runs.run_evaluation import summarize_answers
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.tasks.prompt import build_prompt
from medtask.tasks.rows import read_records
from medtask.tasks.serialization import task_from_dict, task_to_dict
from medtask.tasks.task import Task
from support.tasks_by_kind import ANSWER_SPECS, write_task_and_table


@pytest.mark.parametrize("kind", sorted(ANSWER_SPECS))
def test_a_run_reads_as_it_was_answered(kind: str, tmp_path: Path) -> None:
    folder, table = write_task_and_table(kind, tmp_path, 60)
    task = load_task(folder)
    out = run(task, FakeEngine(), table, out=tmp_path / "out").folder
    found = open_answers(out)
    ledger = Ledger(out / "ledger.db", task.outcomes)
    kept = [given.answer for given in ledger.read_answers(60)]
    ledger.close()
    assert found.task.kind == task.kind and found.task.labels == task.labels and not found.has_gold
    rows = list(found.rows())
    assert [
        (row.answer.record_id, row.answer.status, row.answer.value, row.answer.confidence)
        for row in rows
    ] == [(answer.record_id, answer.status, answer.value, answer.confidence) for answer in kept]
    shown = [row.answer.probabilities for row in rows]
    assert shown == [answer.probabilities for answer in kept] or task.kind in ("choice", "fields")
    prompts = [
        build_prompt(replace(task, gate=found.task.gate), record)
        for record in read_records(task, read_table(table))
    ]
    assert [row.text for row in rows] == [getattr(prompt, "text", "") for prompt in prompts]
    assert [row.options for row in rows] == [getattr(prompt, "options", ()) for prompt in prompts]


def test_a_damaged_ledger_is_reported_and_no_row_gets_the_details_of_another(
    tmp_path: Path,
) -> None:
    folder, table = write_task_and_table("choice", tmp_path, 60)
    out = run(load_task(folder), FakeEngine(), table, out=tmp_path / "out").folder
    whole = list(open_answers(out).rows())
    ledger_file = out / "ledger.db"
    content = ledger_file.read_bytes()
    ledger_file.write_bytes(content[:-3500])
    found = open_answers(out)
    assert any("is damaged" in note and "left out" in note for note in found.notes)
    assert [row.answer.value for row in found.rows()] == [row.answer.value for row in whole]
    assert ledger_file.read_bytes() == content[:-3500]
    # A ledger that lost rows, as between its recovery and the end of the resumed run.
    ledger_file.write_bytes(content)
    with closing(sqlite3.connect(ledger_file, isolation_level=None)) as db:
        db.execute("DELETE FROM answers WHERE row < 20")
    details = [row.answer.off_set for row in open_answers(out).rows()]
    assert details[19:] == [row.answer.off_set for row in whole][19:]


@pytest.mark.parametrize("kind", sorted(ANSWER_SPECS))
def test_facts_are_the_question_again(kind: str, tmp_path: Path) -> None:
    task = load_task(write_task_and_table(kind, tmp_path, 1)[0])
    again = task_from_dict(
        task.name, json.loads(json.dumps(task_to_dict(task))), fingerprint=task.fingerprint
    )
    assert (again.answer_spec, again.labels, again.abstain, again.outcomes) == (
        task.answer_spec,
        task.labels,
        task.abstain,
        task.outcomes,
    )


@pytest.fixture
def folder(task: Task, write_rows: Callable[[int], Path], tmp_path: Path) -> Path:
    return run(task, FakeEngine(), write_rows(30), out=tmp_path / "out").folder


def test_gold_from_a_file_meets_its_rows_by_id(folder: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.csv"
    gold.write_text("case_id,reader\nc-7,staging\nc-3,curative\nc-99,curative\n")
    found = open_answers(folder, gold=str(gold))
    assert {row.answer.record_id: row.gold for row in found.rows() if row.gold} == {
        "c-3": "curative",
        "c-7": "staging",
    }
    assert found.notes == (f"1 of the 3 ids of {gold} are not among the answers",)
    gold.write_text("id,note,label\nc-7,x,staging\n")
    assert {row.gold for row in open_answers(folder, gold=str(gold)).rows()} == {None, "staging"}
    assert {row.gold for row in open_answers(folder, gold=f"{gold}#note").rows()} == {None, "x"}


def _write_numbered_run(folder: Path, table: str) -> Path:
    (folder / "task.yaml").write_text(
        "instruction: Is it urgent?\ninput: '{{ text }}'\n"
        "answer: {kind: label, labels: [urgent, routine]}\n"
    )
    (folder / "rows.csv").write_text(table)
    task = load_task(folder / "task.yaml")
    return run(task, FakeEngine(), folder / "rows.csv", out=folder / "out").folder


@pytest.mark.parametrize("ids", ["0,1,2", "000,001,002", "3,1,2"])
def test_gold_of_a_task_without_ids_is_found_by_the_ids_of_its_table(
    ids: str, tmp_path: Path
) -> None:
    names = ids.split(",")
    rows = "".join(f"{name},text {name}\n" for name in names)
    out = _write_numbered_run(tmp_path, f"id,text\n{rows}")
    gold = tmp_path / "gold.csv"
    gold.write_text(f"id,gold\n{int(names[2])},urgent\n{int(names[0])},routine\n")
    found = open_answers(out, gold=str(gold))
    assert [row.gold for row in found.rows()] == ["routine", None, "urgent"]


def test_gold_numbered_from_0_is_refused_for_rows_that_are_numbered_from_1(tmp_path: Path) -> None:
    out = _write_numbered_run(tmp_path, "text\nfirst\nsecond\nthird\n")
    gold = tmp_path / "gold.csv"
    gold.write_text("id,gold\n0,urgent\n1,urgent\n2,routine\n")
    with pytest.raises(TableError, match="numbered from 1"):
        open_answers(out, gold=str(gold))
    gold.write_text("id,gold\n1,urgent\n3,routine\n")
    found = open_answers(out, gold=str(gold))
    assert [row.gold for row in found.rows()] == ["urgent", None, "routine"]


def test_gold_of_numbered_rows_is_found_by_their_texts(tmp_path: Path) -> None:
    out = _write_numbered_run(tmp_path, "text\nfirst\nsecond\nthird\n")
    gold = tmp_path / "gold.csv"
    gold.write_text("id,text,gold\n1,third,urgent\n2,first,routine\n")
    found = open_answers(out, gold=str(gold))
    assert [row.gold for row in found.rows()] == ["routine", None, "urgent"]
    gold.write_text("id,text,gold\n1,first,urgent\n2,another text,routine\n")
    found = open_answers(out, gold=str(gold))
    assert [row.gold for row in found.rows()] == ["urgent", None, None]
    assert found.notes == (f"1 of the 2 ids of {gold} are not among the answers",)
    gold.write_text("id,gold\n1,urgent\n")
    assert any("no text was there" in note for note in open_answers(out, gold=str(gold)).notes)


def test_the_ids_of_a_gold_file_are_found_under_another_name(folder: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.csv"
    gold.write_text("number,patient,label\nc-7,1,staging\nc-3,2,curative\n")
    found = open_answers(folder, gold=str(gold))
    assert {row.answer.record_id: row.gold for row in found.rows() if row.gold} == {
        "c-3": "curative",
        "c-7": "staging",
    }
    assert found.notes == (f'{gold}: its ids are in the column "number"',)
    gold.write_text("number,copy,label\nc-7,c-7,staging\nc-3,c-3,curative\n")
    with pytest.raises(TableError, match='no column "case_id" for the ids') as caught:
        open_answers(folder, gold=str(gold))
    assert "rename the column that holds the ids" in caught.value.fix


def test_gold_filled_into_a_table_of_ours_meets_ids_that_look_like_formulas(tmp_path: Path) -> None:
    path, gold = tmp_path / "other.csv", tmp_path / "review.csv"
    path.write_text("id,answer\n-1,a\n2,b\n")
    gold.write_text("id,gold\n'-1,a\n2,a\n")
    assert [row.gold for row in open_answers(path, gold=str(gold), kind="label").rows()] == [
        "a",
        "a",
    ]


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ("case_id,a,b\nc-1,x,y\n", "does not tell which column"),
        ("a,b\nx,y\n", "no column"),
        ("case_id,gold\nz-1,x\n", "none of the 1 ids"),
        ("case_id,gold\nc-1,x\nc-1,y\n", "repeats the id"),
    ],
)
def test_a_gold_file_that_cannot_be_joined_is_refused(
    folder: Path, tmp_path: Path, table: str, fault: str
) -> None:
    gold = tmp_path / "gold.csv"
    gold.write_text(table)
    with pytest.raises(MedtaskError, match=fault):
        open_answers(folder, gold=str(gold))


def test_what_is_neither_column_nor_file_is_reported_with_what_was_meant(folder: Path) -> None:
    with pytest.raises(UsageError, match='did you mean "procedure"'):
        open_answers(folder, gold="proceedure")
    with pytest.raises(TableError, match="no column"):
        open_answers(folder, group="patient")


def test_a_table_in_the_run_is_the_run(folder: Path) -> None:
    assert open_answers(folder / "answers.csv").folder == folder


def test_a_finished_run_whose_table_was_removed_is_reported_as_that(folder: Path) -> None:
    (folder / "answers.parquet").unlink()
    with pytest.raises(InputError, match=r"finished run whose table answers\.parquet was removed"):
        open_answers(folder)


def test_the_folder_of_a_task_is_no_run(task_folder: Path) -> None:
    (task_folder / "runs").mkdir()
    with pytest.raises(UsageError, match="not a run's"):
        open_answers(task_folder)


FOREIGN_TABLES = {
    "label": (
        "id,answer,gold\n" + "".join(f"{row},{'ab'[row % 2]},a\n" for row in range(60)),
        ("a", "b"),
    ),
    "label by probabilities": (
        "id,answer,p:yes,p:no\n1,yes,0.7,0.3\n2,no,0.4,0.6\n",
        ("yes", "no"),
    ),
    "labels by probabilities": ("id,answer,p:x,p:y\n1,x; y,0.7,0.8\n2,,0.4,0.1\n", ("x", "y")),
    "labels": (
        (
            '{"id": "1", "answer": ["x", "y"], "gold": ["x"]}\n{"id": "2", "answer": [], "gold": '
            '["z"]}\n'
        ),
        ("x", "y", "z"),
    ),
    "answer": (
        "id,answer,gold\n"
        + "".join(f"{row},{'it is a long story ' * 9}{row},so\n" for row in range(9)),
        (),
    ),
    "fields": ('{"id": "1", "answer": {"side": "left"}}\n', ()),
    "fields, one broken": (
        (
            '{"id": "1", "answer": {"side": "left"}}\n{"id": "2", "answer": "{side:", "gold": '
            '{"side": "left"}}\n'
        ),
        (),
    ),
}


@pytest.mark.parametrize("name", FOREIGN_TABLES)
def test_a_foreign_table_is_understood(name: str, tmp_path: Path) -> None:
    text, labels = FOREIGN_TABLES[name]
    path = tmp_path / f"other.{'jsonl' if text.startswith('{') else 'csv'}"
    path.write_text(text)
    found = open_answers(path)
    assert (
        found.task.kind == name.replace(",", "").split()[0]
        and tuple(label.name for label in found.task.labels) == labels
    )
    assert f"kind {found.task.kind}" in found.notes[0]
    rows = list(found.rows())
    assert all(row.answer.status is Status.OK for row in rows) or name == "labels by probabilities"
    if labels == ("yes", "no"):
        assert [row.answer.confidence for row in rows] == [0.7, 0.6]


def test_a_blank_answer_is_counted_as_none(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,answer,confidence,gold\n1,a,0.5,a\n2,,0.9,b\n3,b,,b\n")
    rows = [row.answer for row in open_answers(path, kind="label").rows()]
    assert [(answer.status, answer.value, answer.confidence) for answer in rows] == [
        (Status.OK, "a", 0.5),
        (Status.FAILED, None, None),
        (Status.OK, "b", None),
    ]


def test_labels_joined_by_another_separator_in_gold_are_those_of_the_answers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "other.csv"
    path.write_text('id,answer,gold\n1,a; b,b;a\n2,b,"a, B"\n3,"x, y",a|\n4,x,"x, y"\n')
    found = open_answers(path, kind="labels")
    assert [label.name for label in found.task.labels] == ["a", "b", "x", "x, y"]
    assert [row.gold for row in found.rows()] == [("a", "b"), ("a", "b"), ("a",), ("x, y",)]


def test_what_is_beside_a_failure_is_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text(
        "id,answer,status,confidence,gold\n1,a,failed,0.9,a\n2,b,too_long,0.9,b\n3,a,truncated,0.9,a\n4,b,Review,0.9,b\n"
    )
    rows = [row.answer for row in open_answers(path, kind="label").rows()]
    assert [(answer.value, answer.confidence) for answer in rows] == [
        (None, None),
        (None, None),
        ("a", 0.9),
        ("b", 0.9),
    ]
    path.write_text('{"id": "1", "answer": [], "status": "failed"}\n')
    assert (
        next(open_answers(path.rename(tmp_path / "other.jsonl"), kind="labels").rows()).answer.value
        is None
    )


@pytest.mark.parametrize("kind", ["label", "labels"])
def test_an_answer_that_the_task_does_not_have_is_counted_and_wrong(
    tmp_path: Path, kind: str
) -> None:
    task, path = tmp_path / "task.yaml", tmp_path / "other.csv"
    task.write_text(
        f"instruction: Which?\ninput: '{{{{ text }}}}'\nanswer:\n  kind: {kind}\n  labels:\n    "
        "a: one\n    b: two\n"
    )
    path.write_text("id,text,answer,gold\n1,x,a,a\n2,y,strange,b\n")
    found = summarize_answers(open_answers(path, task=load_task(task)))
    assert found.statuses == {Status.OK: 1, Status.UNPARSABLE: 1}
    assert (
        found.gold is not None
        and found.gold.scored_rows.right.tolist() == [True, False]
        and found.gold.rows == 2
    )


@pytest.mark.parametrize(
    ("cells", "is_reported"),
    [("1,0\n", False), ("1,5\n", True), ("2\n", False), ("yes\n", True)],
)
def test_answers_and_gold_without_a_label_in_common_are_reported(
    cells: str, is_reported: bool, tmp_path: Path
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id;answer;gold\na;1;" + cells + "b;2;" + cells)
    found = open_answers(path)
    assert any("no label occurs both" in note for note in found.notes) == is_reported


def test_labels_that_differ_in_capital_letters_only_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,answer,gold\n1,Mg,mg\n2,K,K\n")
    assert open_answers(path).notes[1].startswith("1 of the labels differ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("id,result\n1,a\n", 'no column "answer"'),
        ("number,answer\n1,a\n", 'no column "id"'),
        ("id,answer,confidence\n1,a,7\n", "row 1: .confidence. is not a probability"),
        ("id,answer,p:a\n1,a,-0.1\n", "row 1: .p:a. is not a probability"),
        ("id,answer,status\n1,a,fine\n", "row 1: the status is not valid"),
        ("id,answer\n1,a\n1,b\n", "repeats the id"),
    ],
)
def test_a_foreign_table_with_a_fault_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=fault):
        list(open_answers(path).rows())


def test_a_kind_that_a_table_cannot_tell_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("id,answer\n1,A\n")
    with pytest.raises(UsageError, match="a table alone"):
        open_answers(path, kind="choice")


def test_parquet_keeps_labels_and_probabilities(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pl.DataFrame(
        {
            "id": [1, 2],
            "answer": ["x", "y"],
            "probabilities": [{"x": 0.9, "y": 0.1}, {"x": 0.2, "y": 0.8}],
        }
    ).write_parquet(path)
    rows = list(open_answers(path).rows())
    assert [row.answer.confidence for row in rows] == [0.9, 0.8]


def read_accuracy(tmp_path: Path, rows: list[tuple[str, str]]) -> float:
    pl.DataFrame(
        {
            "id": [f"r{number}" for number in range(len(rows))],
            "gold": [gold for gold, _ in rows],
            "answer": [answer for _, answer in rows],
        }
    ).write_csv(tmp_path / "elsewhere.csv")
    evaluation = evaluate(tmp_path / "elsewhere.csv", baselines=False)
    accuracy = evaluation.metrics["accuracy"]
    assert accuracy is not None
    return accuracy.value


@pytest.mark.parametrize(
    ("rows", "accuracy"),
    [
        ([("2.0", "2"), ("3.0", "3"), ("2.0", "3"), ("3.0", "3.0")], 0.75),
        ([("Bell\u2019s palsy", "Bell's palsy"), ("gout", "gout\u200b")], 1.0),
        ([("nævus", "nævus"), ("re\u0301sumé", "résume\u0301")], 1.0),
        ([("Yes", "TRUE"), ("No", "FALSE"), ("No", "TRUE"), ("Yes", "yes")], 0.75),
        ([("Gout", "gout"), ("gout", "GOUT"), ("sepsis", "gout")], 2 / 3),
        ([("BB", "bb"), ("Bb", "Bb"), ("bb", "bb"), ("BB", "BB")], 0.75),
        ([("01", "1"), ("1", "1"), ("02", "02")], 2 / 3),
    ],
)
def test_answers_of_another_tool_equal_gold_that_a_reader_calls_the_same(
    rows: list[tuple[str, str]], accuracy: float, tmp_path: Path
) -> None:
    assert read_accuracy(tmp_path, rows) == pytest.approx(accuracy)


def test_what_matched_after_normalisation_is_counted_and_reported(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.csv").write_text(
        "id,gold,answer,ada,ben\n1,no change,no\u00a0change,No change,worse\n"
        "2,NA,worse,worse,worse\n3,worse,worse,-,worse\n"
    )
    evaluation = evaluate(tmp_path / "elsewhere.csv", baselines=False, readers=("ada", "ben"))
    document = evaluation.to_json()
    assert document["cells"]["answer"] == {
        "values": 3,
        "blank": 0,
        "empty_sets": 0,
        "missing_words": {},
        "normalized": 1,
        "form_notes": [],
        "normalized_examples": [["no\u00a0change", "no change"]],
    }
    assert document["cells"]["gold"]["missing_words"] == {"NA": 1}
    assert document["cells"]["ada"]["normalized"] == 1
    notes = " ".join(evaluation.notes)
    assert "1 of 3 values of answer matches after normalisation only" in notes
    assert '"NA" counts as missing in 1 row of gold' in notes
    assert "after normalisation only" in (evaluation.report or Path()).read_text()


def test_systems_that_spell_labels_differently_are_compared(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("id,gold,answer\n1,1.0,1\n2,2.0,2\n3,2.0,1\n")
    (tmp_path / "two.csv").write_text("id,answer\n1,01\n2,2.00\n3,2\n")
    comparison = compare(
        [tmp_path / "one.csv", tmp_path / "two.csv"], gold="gold", kind="label", baselines=False
    )
    systems = comparison.to_json()["systems"]
    found = {system["name"]: system["figures"]["accuracy"]["value"] for system in systems}
    assert found == {"one": pytest.approx(2 / 3), "two": 1}


def test_a_table_with_semicolons_and_decimal_commas_is_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("id,answer,confidence,p:a\n1,a,0.975,0.5\n2,b,1,0.25\n")
    (tmp_path / "two.csv").write_text("id;answer;confidence;p:a\n1;a;0,975;0,5\n2;b;1;0,25\n")
    first, second = (
        [row.answer for row in open_answers(tmp_path / name, kind="label").rows()]
        for name in ("one.csv", "two.csv")
    )
    assert first == second
