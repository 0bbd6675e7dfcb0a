"""Column names that are not in the first row: found by an option, which the error names."""

from __future__ import annotations

from pathlib import Path

import openpyxl
import pytest

from medtask.errors import TableError
from medtask.tables.read import read_table

ROWS = [{"id": "1", "text": "Total gastrectomy", "gold": "curative"}]


def save_sheets(path: Path, sheets: dict[str, list[list[object]]], merged: str = "") -> Path:
    book = openpyxl.Workbook()
    del book["Sheet"]
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
        if merged:
            sheet.merge_cells(merged)
    book.save(path)
    return path


@pytest.mark.parametrize(
    "title",
    [
        "Operations, week 12\n",
        "Operations\n\n",
        '"Operations"\n"Printed 3 May, ward 5"\n\n',
        "Operations;;\n",
        "Operations\nPrinted 3 May, ward 5\n",
        "Operations,,\n",
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_lines_above_the_header_of_a_text_file_are_named(
    tmp_path: Path, title: str, delimiter: str
) -> None:
    path = tmp_path / "list.csv"
    table = "id,text,gold\n1,Total gastrectomy,curative\n2,Stent,palliative\n3,Biopsy,\n"
    path.write_text(title + table.replace(",", delimiter))
    row = title.count("\n") + 1
    with pytest.raises(TableError, match="line 1 was taken for the column names: ") as raised:
        list(read_table(path))
    assert f"With --header-row {row} they are id, text, gold" in str(raised.value)
    assert f"--header-row {row}" in raised.value.fix
    assert next(iter(read_table(path, header_row=row))) == ROWS[0]


@pytest.mark.parametrize("merged", ["", "A1:C1"])
def test_a_title_row_of_a_sheet_is_named(tmp_path: Path, merged: str) -> None:
    rows = [["Operations"], ["printed 3 May"], [], ["id", "text"], [1, "a"]]
    path = save_sheets(tmp_path / "list.xlsx", {"Week 12": rows}, merged)
    with pytest.raises(TableError, match='sheet "Week 12", row 1 was taken') as raised:
        read_table(path)
    assert "--header-row 4" in raised.value.fix
    assert list(read_table(path, header_row=4)) == [{"id": 1, "text": "a"}]


def test_a_cover_sheet_is_named_with_the_sheet_that_has_columns(tmp_path: Path) -> None:
    sheets = {"Info": [["Export of the ward"], ["2 rows"]], "Data": [["id", "text"], [1, "a"]]}
    path = save_sheets(tmp_path / "list.xlsx", sheets)
    with pytest.raises(TableError, match='sheet "Info", row 1 was taken') as raised:
        read_table(path)
    assert '--sheet "Data"' in raised.value.fix
    assert list(read_table(path, sheet="Data")) == [{"id": 1, "text": "a"}]
    assert list(read_table(path, sheet="Info")) == [{"Export of the ward": "2 rows"}]


def test_a_table_in_one_column_needs_no_option(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    path.write_text("text\nknee\nhip, left\nhand, right\nfoot, both\n")
    assert [row["text"] for row in read_table(path)][1:3] == ["hip, left", "hand, right"]


def test_the_first_line_of_excel_names_the_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    for mark in ("sep=;", "\ufeffsep=;", '"sep=;"', "SEP=;", "sep=;;"):
        path.write_text(f"{mark}\nid;text;gold\n1;Total gastrectomy;curative\n", "utf-8")
        table = read_table(path)
        assert list(table) == ROWS, mark
        assert "delimiter ;" in table.notes
    for mark in "#\t^":
        path.write_text(
            f"sep={mark}\nid,text,gold\n1,Total gastrectomy,curative\n".replace(",", mark)
        )
        assert list(read_table(path)) == ROWS
        assert list(read_table(path, header_row=2)) == ROWS


@pytest.mark.parametrize(
    "table",
    [
        "id,text,gold\n1,Total gastrectomy,curative,\n",
        "id,text,gold,\n1,Total gastrectomy,curative,\n",
        "id,text,gold,\n1,Total gastrectomy,curative\n",
        "id,text,gold\n1,Total gastrectomy,curative,,, \n",
        "id,text,gold,,\n1,Total gastrectomy,curative\n",
    ],
)
def test_empty_cells_beyond_the_columns_are_no_fault(tmp_path: Path, table: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(table)
    assert list(read_table(path)) == ROWS


def test_a_value_beyond_the_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("id,text\n1,knee\n2,hip, left\n")
    with pytest.raises(TableError, match="line 3: 3 cells, but the header has 2"):
        list(read_table(path))


def test_names_have_no_invisible_characters(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "\ufeff\ufeffid\u00a0,\u200btext, gold \n1,Total gastrectomy,curative\n", "utf-8"
    )
    assert list(read_table(path)) == ROWS


def test_a_header_row_below_the_content_is_refused(tmp_path: Path) -> None:
    path = save_sheets(tmp_path / "list.xlsx", {"Data": [["id", "text"], [1, "a"]]})
    with pytest.raises(TableError, match="no visible sheet has content from row 7 on"):
        read_table(path, header_row=7)
    text = tmp_path / "list.csv"
    text.write_text("id,text\n1,a\n")
    with pytest.raises(TableError, match="line 7: there are no column names"):
        read_table(text, header_row=7)


@pytest.mark.parametrize(
    ("header", "problem"),
    [("text,text,gold", 'names "text" more than once'), ("text,,gold", "no name for column 2")],
)
def test_a_row_of_data_is_not_proposed_for_a_faulty_header(
    tmp_path: Path, header: str, problem: str
) -> None:
    path = tmp_path / "list.csv"
    path.write_text(f"{header}\nStent,left,palliative\nBiopsy,right,diagnostic\n")
    with pytest.raises(TableError, match=problem) as raised:
        read_table(path)
    assert "--header-row 2" not in raised.value.fix
