"""XLSX: what other programs read in it, and what does not fit."""

from __future__ import annotations

import tempfile

import openpyxl
import pytest

from medtask.errors import UsageError
from medtask.tables import write_excel
from medtask.tables.read import read_table
from medtask.tables.table import Column
from medtask.tables.write import write_answers


def test_openpyxl_reads_what_was_written(tmp_path):
    values = ["left & right <lobe>", 7, 0.5, True, None, "é\n", 123456789012345678, "=1"]
    write_answers(
        tmp_path / "a.xlsx", [Column(f"c{index}") for index in range(30)], [values + [None] * 22]
    )
    (sheet,) = openpyxl.load_workbook(tmp_path / "a.xlsx")
    assert sheet.title == "answers"
    header, row = sheet.iter_rows(values_only=True)
    assert header == (*(f"c{index}" for index in range(30)), "medtask_escaped")
    assert list(row[:8]) == [
        "left & right <lobe>",
        7,
        0.5,
        True,
        None,
        "é\n",
        "123456789012345678",
        "'=1",
    ]
    assert sheet["AD1"].value == "c29"


def test_a_text_that_is_too_long_is_cut_with_a_mark_and_a_note(tmp_path):
    path, columns = tmp_path / "a.xlsx", [Column("id"), Column("text")]
    assert write_answers(path, columns, [[1, "x" * 32_767], [2, "🫁" * 16_383]]) == ()
    for text in ("x" * 32_768, "🫁" * 16_384, "=" * 50_000, "é\0" * 40_000):
        notes = write_answers(path, columns, [[1, "a"], [2, text]])
        assert notes[0].startswith("a.xlsx: 1 cell cut to 32,767 characters")
        cell = openpyxl.load_workbook(path).active["B3"].value
        assert len(cell.encode("utf-16-le")) <= 2 * 32_767
        kept, mark = cell.split(" [cut: ")
        whole = text.replace("\0", "")
        assert whole.startswith(kept.removeprefix("'"))
        assert len(kept) > 16_000
        assert mark == f"{len(whole):,} characters]"


def test_characters_that_xml_forbids_are_left_out_with_a_note(tmp_path):
    notes = write_answers(tmp_path / "a.xlsx", [Column("text")], [["a\x01b"], ["\x02"], ["c"]])
    assert notes == ("a.xlsx: control characters that XLSX does not allow left out of 2 cells",)
    assert [row["text"] for row in read_table(tmp_path / "a.xlsx")] == ["ab", "c"]


def test_too_many_rows_or_columns_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(write_excel, "_MAX_ROWS", 3)
    write_answers(tmp_path / "a.xlsx", [Column("id")], [[1], [2]])
    with pytest.raises(UsageError, match="more than 2 rows do not fit"):
        write_answers(tmp_path / "a.xlsx", [Column("id")], [[1], [2], [3]])
    with pytest.raises(UsageError, match="16,385 columns do not fit"):
        write_answers(tmp_path / "a.xlsx", [Column("id")] * 16_385, [])


def test_temporary_files_are_in_the_folder_of_the_table_and_are_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", None)
    write_answers(
        tmp_path / "a.xlsx", [Column("id")], [[f"note {number}"] for number in range(100)]
    )
    assert [file.name for file in tmp_path.iterdir()] == ["a.xlsx"]
