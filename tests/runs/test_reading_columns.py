"""Columns that people read in a spreadsheet: fields apart, and the texts of options."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medtask.engines.fake import FakeEngine
from medtask.runs.local_run import run
from medtask.tables.read import read_table
from medtask.tasks.load import load_task

FIELDS = """\
name: sizes
instruction: Read the size.
input: "{{ text }}"
answer:
  kind: fields
  schema:
    type: object
    required: [size]
    properties:
      size: {type: integer, quote: true, nullable: true}
      place:
        type: object
        required: [side]
        properties: {side: {enum: [left, right]}}
"""
CHOICE = """\
name: exam
instruction: Choose the answer.
input: "{{ text }}"
answer: {kind: choice, options: [a, b]}
"""


@pytest.mark.parametrize("wide", [False, True])
def test_fields_are_columns_in_xlsx_and_in_wide_csv(tmp_path: Path, wide: bool) -> None:
    (tmp_path / "task.yaml").write_text(FIELDS)
    rows = [{"text": f"A cyst of {number} mm."} for number in range(10, 30)]
    task = load_task(tmp_path)
    folder = run(task, FakeEngine(), rows, out=tmp_path / "out", formats=["xlsx"], wide=wide).folder
    names = ("answer.size", "answer.size_quote", "answer.place.side")
    tables = [read_table(folder / f"answers.{suffix}") for suffix in ("csv", "xlsx")]
    assert (set(names) <= set(tables[0].columns)) is wide
    place = tables[1].columns.index("answer")
    assert tables[1].columns[place + 1 : place + 4] == names
    for table in tables[not wide :]:
        for row in table:
            answer = json.loads(str(row["answer"])) if row["answer"] else {}
            side = (answer.get("place") or {}).get("side")
            assert row["answer.place.side"] == side
            assert str(row["answer.size"]) == str(answer.get("size"))
    assert "answer.size" not in read_table(folder / "answers.parquet").columns


def test_the_answer_of_a_choice_has_its_text_beside_it(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(CHOICE)
    rows = [
        {"text": f"case {number}", "a": f"first {number}", "b": f"second {number}"}
        for number in range(10)
    ]
    folder = run(load_task(tmp_path), FakeEngine(), rows, out=tmp_path / "out").folder
    table = read_table(folder / "answers.csv")
    assert table.columns[3:5] == ("answer", "answer_text")
    assert all(row["answer_text"] == row[{"A": "a", "B": "b"}[str(row["answer"])]] for row in table)


def test_an_input_column_keeps_its_name_beside_that_of_an_option_text(tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(CHOICE)
    rows = [{"text": "case", "a": "first", "b": "second", "answer_text": "mine"}]
    folder = run(load_task(tmp_path), FakeEngine(), rows, out=tmp_path / "out").folder
    (row,) = read_table(folder / "answers.csv")
    assert row["answer_text"] == "mine"
    assert row["medtask_answer_text"] in ("first", "second")
