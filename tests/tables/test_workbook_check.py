"""Workbooks that would end the process or never be read are refused, in time that is linear."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import openpyxl
import pytest
import xlsxwriter

from medtask.errors import TableError
from medtask.isolation import ProcessLimits
from medtask.tables import binary_files
from medtask.tables.read import read_table

SHEET = "xl/worksheets/sheet1.xml"


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    with xlsxwriter.Workbook(tmp_path / "notes.xlsx") as book:
        sheet = book.add_worksheet()
        for number, row in enumerate([["id", "text"], [1, "a"], [2, "b"]]):
            sheet.write_row(number, 0, row)
    return tmp_path / "notes.xlsx"


def edit_part(path: Path, name: str, edit: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {part: archive.read(part) for part in archive.namelist()}
    parts[name] = edit(parts[name])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part, content in parts.items():
            archive.writestr(part, content)


def test_a_value_in_the_last_cell_is_refused_with_its_cell(workbook):
    book = openpyxl.load_workbook(workbook)
    book.active["XFD1048576"] = "x"
    book.save(workbook)
    with pytest.raises(TableError, match=r"notes\.xlsx.*cell XFD1048576 is so far") as raised:
        read_table(workbook)
    assert "CSV" in raised.value.fix


def test_a_format_in_the_last_cell_is_harmless(workbook):
    book = openpyxl.load_workbook(workbook)
    book.active["XFD1048576"].font = openpyxl.styles.Font(bold=True)
    book.save(workbook)
    assert len(list(read_table(workbook))) == 2


def test_a_far_cell_whose_reference_is_hidden_from_the_check_does_not_end_the_process(workbook):
    far = b'<row r="1048576"><c  t="n" r="XFD01048576"><v>1</v></c></row></sheetData>'
    edit_part(workbook, SHEET, lambda xml: xml.replace(b"</sheetData>", far))
    with pytest.raises(TableError, match=r"notes\.xlsx"):
        read_table(workbook)


@pytest.mark.parametrize(
    "content",
    [
        b"<!-- " + b"<c " * 200_000 + b't="e" <f> -->',
        b"<!-- " + b'<c r="A1" ' * 100_000 + b't="e" <f> -->',
        b"<!-- <c " + b'r="A1" ' * 100_000 + b't="e" <f> -->',
        b"<!-- <c " + b"a" * 1_000_000 + b't="e" <f> -->',
    ],
)
def test_a_comment_of_many_cells_takes_no_time_and_is_not_read(workbook, content):
    edit_part(workbook, SHEET, lambda xml: xml.replace(b"<sheetData>", content + b"<sheetData>"))
    started = time.process_time()
    table = read_table(workbook)
    assert [row["text"] for row in table] == ["a", "b"]
    assert len(table.notes) == 1
    assert time.process_time() - started < 2


def test_merged_areas_as_large_as_the_sheet_take_no_time(workbook):
    merged = b"".join(b'<mergeCell ref="A2:A1048576"/>' for _ in range(5_000))
    edit_part(
        workbook,
        SHEET,
        lambda xml: xml.replace(
            b"</sheetData>", b"</sheetData><mergeCells>" + merged + b"</mergeCells>"
        ),
    )
    started = time.process_time()
    assert [row["id"] for row in read_table(workbook)] == [1, 2]
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        (SHEET, lambda xml: b'<!DOCTYPE x [<!ENTITY a "b">]>' + xml),
        (SHEET, lambda xml: b'<?xml version="1.0" encoding="UTF-9"?>' + xml.partition(b"?>")[2]),
        (SHEET, lambda xml: xml.replace(b"</row>", b"", 1)),
        (SHEET, lambda xml: xml[: len(xml) // 2]),
        ("xl/workbook.xml", lambda xml: b""),
        ("xl/workbook.xml", lambda xml: xml.replace(b'r:id="rId1"', b'r:id="rId999"')),
        ("xl/_rels/workbook.xml.rels", lambda xml: b"<a/>"),
    ],
)
def test_xml_that_is_damaged_is_refused(workbook, name, edit):
    edit_part(workbook, name, edit)
    with pytest.raises(TableError, match="truncated, damaged"):
        read_table(workbook)


def test_a_text_that_a_sheet_repeats_beyond_all_memory_is_refused(workbook, monkeypatch):
    """The file has it once; the library stores it once for each cell."""
    monkeypatch.setattr(binary_files, "_choose_limits", lambda _: ProcessLimits(2**30, 60))
    cells = b"".join(
        b'<row r="%d"><c r="B%d" t="s"><v>0</v></c></row>' % (row, row) for row in range(4, 9_000)
    )
    edit_part(workbook, SHEET, lambda xml: xml.replace(b"</sheetData>", cells + b"</sheetData>"))
    long = b"<si><t>" + b"x" * 2**20 + b"</t></si>"
    edit_part(workbook, "xl/sharedStrings.xml", lambda xml: xml.replace(b"<si>", long + b"<si>", 1))
    with pytest.raises(TableError, match=r"needs more than 1 GB of memory"):
        read_table(workbook)


def test_a_file_that_changes_is_inspected_again(workbook):
    table = read_table(workbook)
    assert len(list(table)) == 2
    edit_part(workbook, SHEET, lambda xml: xml[:-100])
    with pytest.raises(TableError, match="truncated, damaged"):
        list(table)


def test_a_huge_number_or_number_format_is_harmless(workbook):
    book = openpyxl.load_workbook(workbook)
    book.active["A2"].number_format = "0" * 200
    book.save(workbook)
    edit_part(
        workbook, SHEET, lambda xml: xml.replace(b"<v>1</v>", b"<v>" + b"9" * 10_000 + b"</v>")
    )
    assert [row["text"] for row in read_table(workbook)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "problem", "fix"),
    [
        ("<html><table><tr><td>id</td></tr></table></html>", "web page", "save it as XLSX"),
        ("\ufeff\n<?xml version='1.0'?><Workbook/>", "web page", "save it as XLSX"),
        ("id;text\n1;på høyre side\n", "text", "ends in .csv"),
    ],
)
@pytest.mark.parametrize("suffix", [".xls", ".xlsx"])
def test_a_text_file_with_the_name_of_a_workbook_has_its_own_remedy(
    tmp_path, content, problem, fix, suffix
):
    path = tmp_path / f"export{suffix}"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TableError, match=f"export{suffix}: the file is (a )?{problem}") as raised:
        read_table(path)
    assert fix in raised.value.fix


def test_utf16_text_with_the_name_of_a_workbook_is_text(tmp_path):
    path = tmp_path / "export.xls"
    path.write_text("id\ttext\n1\ta\n", encoding="utf-16")
    with pytest.raises(TableError, match="the file is text"):
        read_table(path)
    assert [*read_table(path.rename(tmp_path / "export.csv"))] == [{"id": "1", "text": "a"}]
