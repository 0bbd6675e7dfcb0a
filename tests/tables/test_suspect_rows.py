"""Totals and notes below a table are found, and records are not taken for them."""

from __future__ import annotations

import time

import pytest

from medtask.errors import TableError
from medtask.tables.read import read_table, validate_table
from medtask.tables.suspect_rows import SuspectRow, describe_suspect_rows

Row = dict[str, object]
RECORDS: list[Row] = [
    {"id": f"c{number}", "text": f"total knee replacement {number}", "gold": "", "days": "3"}
    for number in range(5)
]


def find_suspects(*rows: Row, records: list[Row] = RECORDS) -> tuple[SuspectRow, ...]:
    return validate_table(read_table([*records, *rows])).suspect_rows


@pytest.mark.parametrize(
    "word",
    [
        "Total",
        "TOTAL:",
        "Sum",
        "Totalt",
        "Gesamt",
        "Summe (n)",
        "n = 250",
        "N=1 250",
        "Total: 250 rows",
        "Antall: 250 pasienter",
        "Итого",
        "合计",
    ],
)
def test_a_total_is_found_and_shown(word: str) -> None:
    row: Row = {"id": word, "text": None, "gold": "", "days": 15}
    assert find_suspects(row) == (SuspectRow(6, word),)
    assert word in describe_suspect_rows(find_suspects(row))


def test_a_note_is_found_and_its_text_is_not_shown() -> None:
    note: Row = {"id": "Patients of ward 3, as of 1 May", "text": "", "gold": "", "days": ""}
    total: Row = {"id": "", "text": "Total", "gold": "", "days": "15"}
    found = find_suspects(total, note)
    assert found == (SuspectRow(6, "Total"), SuspectRow(7, ""))
    assert "ward 3" not in describe_suspect_rows(found)


@pytest.mark.parametrize(
    "row",
    [
        {"id": "c9", "text": "Total", "gold": "", "days": "3"},
        {"id": "c9", "text": "total knee replacement", "gold": "", "days": ""},
        {"id": "c9", "text": "number of lesions: 3", "gold": "", "days": ""},
        {"id": "9", "text": "Total hip", "gold": "", "days": ""},
        {"id": "c9", "text": "", "gold": "", "days": "3"},
    ],
)
def test_a_record_is_not_a_total(row: Row) -> None:
    assert find_suspects(row) == ()


def test_a_table_with_many_rows_of_one_cell_has_no_note() -> None:
    records: list[Row] = [{"a": f"text {n}", "b": "", "c": ""} for n in range(5)]
    assert find_suspects(records=records) == ()
    assert find_suspects({"a": "n = 5", "b": "", "c": ""}, records=records) == (
        SuspectRow(6, "n = 5"),
    )


def test_a_total_within_the_table_is_a_record_and_blank_rows_are_ignored() -> None:
    total: Row = {"id": "Total", "text": "", "gold": "", "days": ""}
    blank: Row = dict.fromkeys(total, "")
    assert find_suspects(total, *RECORDS) == ()
    assert find_suspects(blank, total, blank) == (SuspectRow(7, "Total"),)


def test_the_error_on_missing_ids_names_the_total() -> None:
    with pytest.raises(TableError, match=r'1 row has no id \(row 6\); row 6 \("Total"\)'):
        validate_table(read_table([*RECORDS, {"id": "", "text": "Total", "days": "15"}]), "id")


def test_a_header_in_the_middle_is_found() -> None:
    header: Row = {"id": "id", "text": " text", "gold": "gold", "days": "days"}
    found = find_suspects(header, {**RECORDS[0], "id": "c9"}, header)
    assert found == (SuspectRow(6, is_header=True), SuspectRow(8, is_header=True))
    assert describe_suspect_rows(found) == (
        "row 6, row 8 repeat the names of the columns: they are read like any other row (delete "
        "them from the table if that is wrong)"
    )
    assert find_suspects({**header, "text": "a text"}) == ()


def test_the_header_of_an_appended_file_with_a_byte_order_mark_is_reported() -> None:
    header: Row = {name: name for name in RECORDS[0]}
    header["id"] = "\ufeffid"
    records = [*RECORDS, header, *RECORDS]
    assert find_suspects(records=records) == (SuspectRow(6, is_header=True),)


def test_a_long_cell_of_numbers_takes_no_time():
    started = time.process_time()
    row: Row = {"id": "c9", "text": "1 " * 100_000 + "mg", "gold": "", "days": "3"}
    assert find_suspects(row) == ()
    assert time.process_time() - started < 2
