"""Rows into records, and what a table must have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medtask.errors import InputError, TableError, TaskFault, TaskFaults
from medtask.records import Record
from medtask.tables.cell_values import is_missing
from medtask.tables.missing import mark_missing
from medtask.tables.read import read_table
from medtask.tasks.load import load_task
from medtask.tasks.rows import (
    UnknownGold,
    check_columns,
    check_gold,
    read_gold,
    read_records,
    require_columns,
)
from medtask.tasks.task import FreeText, MultiLabel, MultipleChoice, SingleLabel, Task
from support.task_texts import make_task

TASK = """\
instruction: Decide.
id: case_id
gold: purpose
input: |
  {{ procedure }}

  {{ row["Surgeon note"] }}
answer: {kind: label, labels: {curative: removes, palliative: relieves}, abstain: unsure}
"""


@pytest.fixture
def task(tmp_path: Path) -> Task:
    (tmp_path / "task.yaml").write_text(TASK)
    return load_task(tmp_path)


def test_ids_and_gold_are_stripped_text(task):
    rows = [
        {"case_id": " 001 ", "purpose": " curative "},
        {"case_id": 7, "purpose": "  "},
        {"case_id": "x", "purpose": float("nan")},
    ]
    assert [(record.id, record.gold) for record in read_records(task, rows)] == [
        ("001", "curative"),
        ("7", None),
        ("x", None),
    ]


def test_a_record_keeps_its_row_as_it_is(task):
    row = {"case_id": "1", "procedure": " a\x00 "}
    (record,) = read_records(task, [row])
    assert record.fields == row


def test_rows_without_an_id_column_are_numbered(task):
    numbered = replace(task, id_column=None)
    assert [record.id for record in read_records(numbered, [{}, {}])] == ["1", "2"]
    assert [record.id for record in read_records(numbered, [{}], first_row=41)] == ["41"]


def test_a_row_without_its_id_is_refused_by_its_number(task):
    with pytest.raises(TableError, match='row 2 has no id in the column "case_id"'):
        list(read_records(task, [{"case_id": "a"}, {"case_id": " "}]))


def test_another_gold_column_replaces_the_tasks_own(task):
    (record,) = read_records(
        task,
        [{"case_id": "1", "purpose": "curative", "second reader": "palliative"}],
        gold_column="second reader",
    )
    assert record.gold == "palliative"


def test_a_table_that_has_everything_has_no_faults(task):
    assert check_columns(task, ["case_id", "procedure", "Surgeon note", "purpose", "more"]) == ()


def test_columns_that_a_table_lacks_are_reported_with_the_line_that_uses_them(task):
    has = "the table has case, proceedure, Surgeon  note"
    assert check_columns(task, ["case", "proceedure", "Surgeon  note"], gold_column="truth") == (
        TaskFault(5, f'input uses {{{{ procedure }}}}, but {has} - did you mean "proceedure"?'),
        TaskFault(7, f'input uses row["Surgeon note"], but {has} - did you mean "Surgeon  note"?'),
        TaskFault(2, f'id is "case_id", but {has} - did you mean "case"?'),
        TaskFault(None, f'gold is "truth", but {has}'),
    )


def test_a_column_of_gold_that_an_option_names_is_no_fault_of_the_task(task):
    row = {"case_id": "1", "procedure": "a", "Surgeon note": "b", "purpose": "c"}
    with pytest.raises(
        InputError, match=r'^gold is "porpose", but .* did you mean "purpose"'
    ) as raised:
        require_columns(task, read_table([row]), gold_column="porpose")
    assert raised.value.fix == "name the column of gold as the table does"
    with pytest.raises(TaskFaults, match="has 1 fault"):
        require_columns(replace(task, gold_column="porpose"), read_table([row]))


def test_a_wide_table_is_listed_in_part(task):
    (*_, fault) = check_columns(task, [f"c{number}" for number in range(30)])
    assert fault.message.endswith("c10, c11 and 18 more")


def test_gold_that_is_no_label_is_counted_with_its_first_row(task):
    gold = ["curative", "Curativ", "x", "unsure", None, "Curativ"]
    records = read_records(
        task, [{"case_id": str(number), "purpose": value} for number, value in enumerate(gold)]
    )
    assert check_gold(task, records).unknown == {
        "Curativ": UnknownGold(2, 2, "curative"),
        "x": UnknownGold(1, 3, None),
    }


def test_unknown_gold_remembers_twenty_values_at_most(task):
    records = read_records(
        task, ({"case_id": str(number), "purpose": f"g{number}"} for number in range(1000))
    )
    assert list(check_gold(task, records).unknown) == [f"g{number}" for number in range(20)]


def test_gold_is_read_as_the_tasks_kind(load_text):
    task = load_text(
        'instruction: x\ninput: "{{ q }}"\ngold: right\nanswer: {kind: choice, options: o}\n'
    )
    rows = [{"q": "?", "o": "A) one B) two", "right": gold} for gold in ("b", "one", "D", None)]
    records = list(read_records(task, rows))
    assert [record.gold for record in records] == ["B", "A", "D", None]
    assert check_gold(task, records).unknown == {"D": UnknownGold(1, 3, None)}


def test_each_name_of_a_list_that_is_no_label_is_counted(load_text):
    task = load_text(
        'instruction: x\ninput: "{{ q }}"\ngold: g\nanswer: {kind: labels, labels: [heart, '
        "liver]}\n"
    )
    rows = [{"g": "heart; livr"}, {"g": "[]"}, {"g": "livr, spleen"}, {"g": "liver"}]
    records = list(read_records(task, rows))
    assert check_gold(task, records).unknown == {
        "livr": UnknownGold(2, 1, "liver"),
        "spleen": UnknownGold(1, 3, None),
    }
    assert (check_gold(task, records).valid_rows, check_gold(task, records).invalid_rows) == (2, 2)


def test_columns_of_options_and_context_must_be_in_the_table(load_text):
    task = load_text(
        'instruction: x\ninput: "{{ q }}"\nanswer:\n  kind: choice\n  options: [opa, opb]\n'
    )
    assert check_columns(task, ["q", "opa", "b"]) == (
        TaskFault(5, 'options names "opb", but the table has q, opa, b - did you mean "opa"?'),
    )
    task = load_text(
        'instruction: x\ninput: "{{ q }}"\nanswer:\n  kind: answer\n  context: abstract\n'
    )
    assert check_columns(task, ["q"]) == (
        TaskFault(5, 'context names "abstract", but the table has q'),
    )


@pytest.mark.parametrize(
    ("labels", "cell", "gold"),
    [
        (["NA", "Na"], "NA", "NA"),
        (["Na", "K"], "NA", None),  # sodium is not a missing value, and R writes NA
        (["N/A", "x"], "n/a", "N/A"),
        (["none", "x"], "None", "none"),
        (["none", "x"], "none", "none"),
        (["-", "+"], "-", "-"),
        (["a", "b"], "nan", None),
        (["a", "b"], "none", "none"),
    ],
)
def test_a_missing_value_in_gold_is_a_label_only_if_the_task_has_it(labels, cell, gold):
    task = make_task(SingleLabel(), labels)
    (row,) = map(mark_missing, [{"gold": cell}])
    assert read_gold(task, row, row["gold"]) == gold


def test_a_word_that_is_a_label_is_no_missing_value_in_the_input_either():
    rows = [{"text": "None", "gold": "None", "note": "NA"}, {"text": "NA", "gold": "", "note": "x"}]
    task = make_task(SingleLabel(), ["None", "one"])
    first, second = read_records(task, rows, gold_column="gold")
    assert first.gold == "None"
    assert [is_missing(first.fields[column]) for column in ("text", "note")] == [False, True]
    assert is_missing(second.fields["text"])


def test_missing_free_text_gold_is_missing():
    (row,) = map(mark_missing, [{"gold": "N/A"}])
    assert read_gold(make_task(FreeText()), row, row["gold"]) is None


def test_an_option_can_be_a_word_for_a_missing_value():
    task = make_task(MultipleChoice(("a", "b")))
    (row,) = map(mark_missing, [{"a": "None", "b": "one", "gold": "None", "other": "NA"}])
    assert read_gold(task, row, row["gold"]) == "A"
    assert read_gold(task, row, row["other"]) is None


def test_rows_without_a_group_are_not_one_group():
    task = replace(make_task(SingleLabel(), ["a"]), group_column="patient")
    rows = [{"patient": "p1"}, {"patient": "NA"}, {"patient": None}]
    assert [record.group for record in read_records(task, rows)] == ["p1", None, None]


def test_letters_of_another_script_that_look_like_a_label_are_named() -> None:
    task = make_task(SingleLabel(), ["A", "BRCA"])
    records = [Record("1", {}, "\u0410"), Record("2", {}, "BR\u0421A"), Record("3", {}, "brc")]
    meanings = [one.describe_meaning() for one in check_gold(task, records).unknown.values()]
    assert meanings == [
        'looks like "A", but has Cyrillic letters',
        'looks like "BRCA", but has Cyrillic letters',
        'perhaps "BRCA"',
    ]


def test_a_decimal_comma_is_one_number_unless_its_parts_are_labels() -> None:
    row: dict[str, object] = {}
    task = make_task(MultiLabel(), ["1", "0", "1.5", "2"])
    assert read_gold(task, row, "1,5") == ("1.5",)
    assert read_gold(task, row, "1,0") == ("1", "0")
    assert read_gold(task, row, "2,0") == ("0", "2")
    assert read_gold(make_task(SingleLabel(), ["1", "0"]), row, "1,0") == "1"


def test_labels_on_lines_of_a_cell_are_several_labels() -> None:
    task = make_task(MultiLabel(), ["fever", "cough", "pain, abdominal"])
    assert read_gold(task, {}, "cough\nfever") == ("fever", "cough")
    assert read_gold(task, {}, "fever\r\npain, abdominal\n") == ("fever", "pain, abdominal")
