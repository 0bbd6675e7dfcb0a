"""Ids of a workbook are what the spreadsheet shows."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from medtask.tables.excel_formats import parse_zero_format
from medtask.tables.read import read_table


@pytest.mark.parametrize(
    ("code", "number", "shown"),
    [
        ("00000", 123, "00123"),
        ("00000", 1234567, "1234567"),
        ("000", 0, "000"),
        ('"P-"0000', 7, "P-0007"),
        ("\\P0", 12, "P12"),
        ("000\\-000", 1234, "001-234"),
        ("000-00-0000", 12345678, "012-34-5678"),
        ("0000;-0000", 5, "0005"),
        ("0000", -5, "-0005"),
        ('0000" a"', 5, "0005 a"),
    ],
)
def test_leading_zeros_and_letters_are_shown(code: str, number: int, shown: str) -> None:
    found = parse_zero_format(code)
    assert found is not None
    assert found.apply(number) == shown


@pytest.mark.parametrize(
    "code", ["0", "0.00", "#,##0", "General", "@", '0 "mg"', "yyyy-mm-dd", "0%", "00E+00", "00:00"]
)
def test_other_formats_are_of_quantities(code: str) -> None:
    assert parse_zero_format(code) is None


def test_ids_keep_their_zeros_wherever_the_table_is(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet["B3"], sheet["C3"], sheet["D3"] = "id", "dose", "code"
    for number in range(1, 4):
        sheet.cell(number + 4, 2, number).number_format = "0000"
        sheet.cell(number + 4, 3, number * 1.5).number_format = "0.00"
        sheet.cell(number + 4, 4, number).number_format = '"ICD "00'
    sheet.cell(8, 2, "A-4").number_format = "0000"
    book.save(tmp_path / "list.xlsx")
    assert read_table(tmp_path / "list.xlsx").columns[-3:] == ("id", "dose", "code")
    assert list(read_table(tmp_path / "list.xlsx")) == [
        {"id": "0001", "dose": 1.5, "code": "ICD 01"},
        {"id": "0002", "dose": 3, "code": "ICD 02"},
        {"id": "0003", "dose": 4.5, "code": "ICD 03"},
        {"id": "A-4", "dose": None, "code": None},
    ]
