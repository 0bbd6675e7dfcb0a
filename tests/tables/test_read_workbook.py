"""Workbooks: the right sheet, whole numbers whole, nothing empty that was not, and no bombs."""

from __future__ import annotations

import datetime
import time
import zipfile
from pathlib import Path

import openpyxl
import pytest

from medtask.errors import TableError
from medtask.tables.read import read_table, validate_table


@pytest.fixture
def save_workbook(tmp_path: Path):
    def save(**sheets: list[list[object]]) -> Path:
        book = openpyxl.Workbook()
        book.remove(book.active)
        for title, rows in sheets.items():
            sheet = book.create_sheet(title)
            if title.startswith("hidden"):
                sheet.sheet_state = "hidden"
            for row in rows:
                sheet.append(row)
        book.save(tmp_path / "notes.xlsx")
        return tmp_path / "notes.xlsx"

    return save


def test_cells_are_converted_to_cell_values(save_workbook):
    day = datetime.datetime(2026, 1, 2, 3, 4, 5)
    row = [3.0, 1.5, "007", True, day.date(), day, day.time(), None, " x\n"]
    table = read_table(save_workbook(Export=[[*"abcdefgh", 2024], row]))
    assert [list(cells.values()) for cells in table] == [
        [3, 1.5, "007", True, "2026-01-02", "2026-01-02T03:04:05", "03:04:05", None, " x\n"]
    ]
    assert [type(cell) for cell in next(iter(table)).values()][:3] == [int, float, str]
    assert table.columns[-1] == "2024"


def test_the_first_visible_sheet_with_content_is_read_and_reported(save_workbook):
    path = save_workbook(
        empty=[], hidden=[["no"], [1]], Export=[["id"], [1]], Codes=[["code"], ["x"]]
    )
    table = read_table(path)
    assert (table.columns, table.notes) == (("id",), ('sheet "Export"', 'not read: sheet "Codes"'))
    assert read_table(path, sheet="hidden").columns == ("no",)
    assert read_table(path, sheet="Codes").digest() != table.digest()
    assert read_table(path, sheet="Export").digest() == table.digest()


def test_an_unknown_sheet_is_refused_with_the_most_similar_name(save_workbook):
    path = save_workbook(Export=[["id"], [1]])
    with pytest.raises(TableError, match='sheet "Exprt" not found') as raised:
        read_table(path, sheet="Exprt")
    assert raised.value.fix == 'did you mean "Export"?'


@pytest.mark.parametrize("sheets", [{"empty": []}, {"hidden": [["id"], [1]], "empty": []}])
def test_a_workbook_without_visible_content_is_refused(save_workbook, sheets):
    with pytest.raises(TableError, match="no visible sheet has content"):
        read_table(save_workbook(**sheets))


def test_empty_rows_are_counted_also_above_the_header(save_workbook):
    table = read_table(save_workbook(Export=[[], ["id", "text"], [1, "a"], [], [None, "b"]]))
    assert list(table) == [{"id": 1, "text": "a"}, {"id": None, "text": "b"}]
    assert validate_table(table, None).blank_lines == 1


def test_a_value_in_an_unnamed_column_is_refused_with_its_row(save_workbook):
    with pytest.raises(
        TableError, match='sheet "Export", row 3: there is a value in column 2, which has no name'
    ):
        list(read_table(save_workbook(Export=[["id"], [1], [2, "x"]])))


def test_a_formula_without_its_result_is_refused_with_its_cell(save_workbook):
    with pytest.raises(
        TableError, match=r"2 formulas without a stored result \(the first is in cell B2\)"
    ) as raised:
        read_table(
            save_workbook(Other=[["x"]], Export=[["id", "text"], [1, "=A2"], [2, "=A3+1"]]),
            sheet="Export",
        )
    assert "LibreOffice" in raised.value.fix


def test_a_formula_with_its_result_is_its_result(save_workbook):
    path = save_workbook(Export=[["id", "a", "b"], [1, "=A2+1", '=""']])
    replace_in(path, b"<f>A2+1</f><v />", b"<f>A2+1</f><v>2</v>")
    replace_in(path, b'<c r="C2"><f>""</f><v />', b'<c r="C2" t="str"><f>""</f><v></v>')
    assert list(read_table(path)) == [{"id": 1, "a": 2, "b": None}]


def replace_in(path: Path, old: bytes, new: bytes) -> None:
    with zipfile.ZipFile(path) as archive:
        # openpyxl writes through lxml where that is installed, which spells an empty element in
        # full.
        parts = {
            name: archive.read(name).replace(b"<v></v>", b"<v />") for name in archive.namelist()
        }
    assert old in parts["xl/worksheets/sheet1.xml"]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(old, new))


def test_error_cells_and_merged_cells_are_reported(save_workbook, tmp_path):
    path = save_workbook(Export=[["id", "text"], [1, "#N/A"], [2, "a"], [None, "b"]])
    book = openpyxl.load_workbook(path)
    book["Export"]["B2"].data_type = "e"
    book["Export"].merge_cells("A3:A4")
    book.save(path)
    table = read_table(path)
    assert [row["text"] for row in table] == [None, "a", "b"]
    assert table.notes[1:] == (
        "merged areas: 1 (in each of their rows the first cell has the value)",
        "cells with an Excel error such as #N/A, read as missing: 1",
    )


def test_a_merged_cell_is_the_value_of_each_of_its_rows(save_workbook):
    rows = [["P1", "a", 1], [None, "b", 2], [None, "c", 3], ["P2", "d", 4], [None, "e", 5]]
    path = save_workbook(Export=[["patient", "text", "n"], *rows])
    book = openpyxl.load_workbook(path)
    book["Export"].merge_cells("A2:A4")
    book["Export"].insert_cols(1)  # the table begins in the second column
    book["Export"].insert_rows(1)
    book["Export"].unmerge_cells("A2:A4")
    book["Export"].merge_cells("B3:B5")
    book["Export"].merge_cells("C7:D7")
    book.save(path)
    assert [row["patient"] for row in read_table(path)] == ["P1", "P1", "P1", "P2", None]


@pytest.mark.parametrize("keep", [0, 10, 500, -1])
def test_a_damaged_workbook_is_refused(save_workbook, keep):
    path = save_workbook(Export=[["id"], [1]])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TableError, match="truncated, damaged"):
        read_table(path)


def test_every_flipped_byte_is_refused_or_harmless(save_workbook):
    path = save_workbook(Export=[["id"], [1]])
    full = path.read_bytes()
    for index in range(0, len(full), 331):
        path.write_bytes(full[:index] + bytes([full[index] ^ 255]) + full[index + 1 :])
        try:
            assert list(read_table(path)) == [{"id": 1}]
        except TableError as error:
            assert error.fix


def test_a_workbook_with_a_password_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "notes.xlsx"
    stream = "EncryptedPackage".encode("utf-16-le")
    path.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + bytes(512) + stream)
    with pytest.raises(TableError, match="protected by a password"):
        read_table(path)


def test_a_workbook_that_is_too_large_is_refused_before_it_is_unpacked(save_workbook):
    path = save_workbook(Export=[["id"], [1]])
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/worksheets/sheet2.xml", "w") as part,
    ):
        for _ in range(201):
            part.write(bytes(2**20))
    started = time.process_time()
    with pytest.raises(TableError, match="unpacked it has 201 MB; the limit is 200 MB"):
        read_table(path)
    assert time.process_time() - started < 2


def test_a_workbook_with_a_false_size_is_refused(tmp_path, save_workbook):
    path = save_workbook(Export=[["id"], [1]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media/image.png", bytes(5_000_000))
        real = archive.getinfo("xl/media/image.png").file_size
    path.write_bytes(
        path.read_bytes().replace(real.to_bytes(4, "little"), (100).to_bytes(4, "little"))
    )
    with pytest.raises(TableError, match="truncated, damaged"):
        read_table(path)


WORKBOOKS = Path(__file__).with_name("workbooks")  # saved by LibreOffice, from the same cells


@pytest.mark.parametrize("suffix", ["ods", "xls"])
def test_workbooks_of_libreoffice_and_old_excel_are_read(suffix):
    table = read_table(WORKBOOKS / f"cases.{suffix}")
    rows = list(table)
    assert table.columns == ("Saksnr", "Inngrep", "Dato", "Konfidens", "Aktiv", "Feil")
    assert 'not read: sheet "Annet"' in table.notes
    assert rows[0]["Inngrep"] == "Høyresidig hemikolektomi nr 1\nannen linje"
    assert [row["Dato"] for row in rows[:2]] == ["2025-03-01", "2025-03-02"]
    assert [row["Konfidens"] for row in rows[:5]] == [0.25, 0.5, 0.75, 1, 1]
    assert [row["Aktiv"] for row in rows[2:4]] == [False, False]  # a merged area
    assert rows[0]["Feil"] is None
    assert read_table(WORKBOOKS / f"cases.{suffix}", sheet="Annet").columns == ("a", "b")


def test_ids_of_an_ods_file_are_read_as_they_are_shown():
    rows = list(read_table(WORKBOOKS / "cases.ods"))
    assert [row["Saksnr"] for row in rows[:4]] == ["000013", "000026", "000039", "000052"]


def test_an_old_excel_file_says_that_it_has_no_number_formats():
    table = read_table(WORKBOOKS / "cases.xls")
    assert any("000123" in note for note in table.notes)
    assert [row["Saksnr"] for row in table][:2] == [13, 26]


def test_the_format_of_a_workbook_is_that_of_its_content(tmp_path):
    path = tmp_path / "renamed.xlsx"
    path.write_bytes((WORKBOOKS / "cases.xls").read_bytes())
    assert read_table(path).columns[:2] == ("Saksnr", "Inngrep")


def test_ids_of_merged_cells_are_as_shown_in_each_row(tmp_path):
    book = openpyxl.Workbook()
    for cells in (["patient", "text"], [7, "a"], [None, "b"]):
        book.active.append(cells)
    book.active["A2"].number_format = "0000"
    book.active.merge_cells("A2:A3")
    book.save(tmp_path / "merged.xlsx")
    assert [row["patient"] for row in read_table(tmp_path / "merged.xlsx")] == ["0007", "0007"]


def test_hidden_rows_are_read_and_counted_in_a_note(save_workbook):
    path = save_workbook(Export=[["id", "text"], [1, "a"], [2, "b"], [3, "c"]])
    book = openpyxl.load_workbook(path)
    for row in (3, 4, 9):  # the last one has no value
        book.active.row_dimensions[row].hidden = True
    book.active.auto_filter.ref = "A1:B4"
    book.save(path)
    table = read_table(path)
    assert [row["id"] for row in table] == [1, 2, 3]
    assert table.notes == ('sheet "Export"', "hidden rows, read like all others: 2")


def test_numbers_whose_last_digits_a_spreadsheet_has_replaced_are_counted(save_workbook):
    ids = [1234567890123450, 12345678901234567890, 123456789012345, 1e300, "12345678901234567890"]
    rows = [[one, -1.5e20, 0.1234567890123456] for one in ids]
    table = read_table(save_workbook(Export=[["id", "minus", "share"], *rows]))
    assert table.notes[1].startswith("numbers of more than 15 digits: 2 (")
