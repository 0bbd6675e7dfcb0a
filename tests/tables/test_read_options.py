"""Options of reading: they decide what is read, and are refused where they have no meaning."""

from __future__ import annotations

import json
from pathlib import Path

import openpyxl
import pytest

from medtask.errors import TableError, UsageError
from medtask.tables.read import read_table
from medtask.tables.read_options import ReadOptions

TEXT = "id,note\r\n1,żółtaczka\r\n"


def test_a_named_encoding_is_used(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(TEXT.encode("cp1250"))
    table = read_table(path, encoding="cp1250")
    assert [row["note"] for row in table] == ["żółtaczka"]
    assert table.notes[0] == "cp1250"
    assert table.options.to_values() == {"encoding": "cp1250"}


def test_a_byte_order_mark_takes_precedence_over_the_named_encoding(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(TEXT.encode("utf-8-sig"))
    assert [row["note"] for row in read_table(path, encoding="cp1250")] == ["żółtaczka"]


def test_bytes_that_the_named_encoding_does_not_have_are_refused_with_their_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(b"id,note\n1,caf\x81\n")
    with pytest.raises(TableError, match="line 2: byte 13 is not valid cp1252"):
        read_table(path, encoding="cp1252")


@pytest.mark.parametrize("name", ["cp9999", "rot13", "idna", "base64", ""])
def test_an_encoding_that_no_file_has_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a known encoding"):
        ReadOptions(encoding=name)


@pytest.mark.parametrize("row", [0, -1])
def test_rows_are_counted_from_1(row: int) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        ReadOptions(header_row=row)


def test_lines_above_the_named_header_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_text('Ward 5", week 7\n\nid;note\n1;a, b\n2;"open\n', "utf-8")
    table = read_table(path, header_row=3)
    assert table.columns == ("id", "note")
    with pytest.raises(TableError, match=r"notes.csv, line 5: the quoted cell that starts here"):
        list(table)
    path.write_text('Ward 5", week 7\n\nid;note\n1;a, b\n2\n', "utf-8")
    with pytest.raises(TableError, match=r"notes.csv, line 5: 1 cell, but the header has 2"):
        list(read_table(path, header_row=3))


def test_rows_above_the_named_header_of_a_sheet_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.xlsx"
    book = openpyxl.Workbook()
    assert book.active
    for row in (["Ward 5"], [], ["id", "note"], [1, "a"]):
        book.active.append(row)
    book.save(path)
    assert list(read_table(path, header_row=3)) == [{"id": 1, "note": "a"}]


def test_a_header_row_is_refused_for_formats_without_one(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_text(json.dumps({"id": 1}) + "\n")
    with pytest.raises(TableError, match="no header row"):
        read_table(path, header_row=2)


def test_a_table_that_is_read_otherwise_is_another_input(tmp_path: Path) -> None:
    path = tmp_path / "notes.csv"
    path.write_bytes(b"id,note\n1,plain\n2,ascii\n")
    digests = {
        read_table(path).digest(),
        read_table(path, encoding="cp1250").digest(),
        read_table(path, header_row=2).digest(),
    }
    assert len(digests) == 3
