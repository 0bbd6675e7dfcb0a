"""XLSX: what other programs read in it, and what does not fit."""

from __future__ import annotations

import tempfile

import openpyxl
import pytest

from medtask.errors import UsageError
from medtask.tables import write_excel
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


def test_a_text_that_is_too_long_is_refused_with_its_cell(tmp_path):
    write_answers(
        tmp_path / "a.xlsx", [Column("id"), Column("text")], [[1, "x" * 32_767], [2, "🫁" * 16_383]]
    )
    for text in ("x" * 32_768, "🫁" * 16_384):
        with pytest.raises(
            UsageError, match="the text for cell B3 has more than 32,767 characters"
        ) as raised:
            write_answers(
                tmp_path / "a.xlsx", [Column("id"), Column("text")], [[1, "a"], [2, text]]
            )
    assert "CSV, JSONL or Parquet" in raised.value.fix


def test_too_many_rows_or_columns_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(write_excel, "_MAX_ROWS", 3)
    write_answers(tmp_path / "a.xlsx", [Column("id")], [[1], [2]])
    with pytest.raises(UsageError, match="more than 2 rows do not fit"):
        write_answers(tmp_path / "a.xlsx", [Column("id")], [[1], [2], [3]])
    with pytest.raises(UsageError, match="16,385 columns do not fit"):
        write_answers(tmp_path / "a.xlsx", [Column("id")] * 16_385, [])


def test_nothing_waits_outside_the_tables_folder_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", None)
    write_answers(
        tmp_path / "a.xlsx", [Column("id")], [[f"note {number}"] for number in range(100)]
    )
    assert [file.name for file in tmp_path.iterdir()] == ["a.xlsx"]
