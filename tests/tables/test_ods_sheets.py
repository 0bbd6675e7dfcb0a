"""ODS files: booleans, ids as shown, merged areas and repeated cells, within limits."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from medtask.errors import TableError
from medtask.tables.read import read_table

_MIME = "application/vnd.oasis.opendocument.spreadsheet"
ROW = "<table:table-row"
_NAMESPACES = " ".join(
    f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
    for name in ("office", "table", "text")
)


def text(value: str, attributes: str = "") -> str:
    return (
        f'<table:table-cell office:value-type="string" {attributes}><text:p>{value}</text:p>'
        "</table:table-cell>"
    )


def number(value: str, shown: str, attributes: str = "") -> str:
    return (
        f'<table:table-cell office:value-type="float" office:value="{value}" {attributes}>'
        f"<text:p>{shown}</text:p></table:table-cell>"
    )


@pytest.fixture
def write_ods(tmp_path: Path):
    def write(*rows: str, start: str = "", manifest: str = "") -> Path:
        path = tmp_path / "notes.ods"
        lines = "".join(
            row if row.startswith(ROW) else f"{ROW}>{row}</table:table-row>" for row in rows
        )
        content = (
            f'<?xml version="1.0"?>{start}<office:document-content {_NAMESPACES}><office:body>'
            f'<office:spreadsheet><table:table table:name="Data">{lines}</table:table>'
            "</office:spreadsheet></office:body></office:document-content>"
        )
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("mimetype", _MIME)
            archive.writestr("content.xml", content)
            archive.writestr("META-INF/manifest.xml", f"<manifest>{manifest}</manifest>")
        return path

    return write


def test_booleans_and_shown_ids_are_read_and_quantities_stay_numbers(write_ods):
    boolean = (
        '<table:table-cell office:value-type="boolean" office:boolean-value="true">'
        "<text:p>SANN</text:p></table:table-cell>"
    )
    path = write_ods(
        text("id") + text("code") + text("size") + text("yes"),
        number("7", "0007") + number("12", "P-0012") + number("1.5", "1,5") + boolean,
    )
    assert list(read_table(path)) == [{"id": "0007", "code": "P-0012", "size": 1.5, "yes": True}]


def test_merged_and_repeated_cells_have_their_value_in_each_row(write_ods):
    path = write_ods(
        text("patient") + text("a") + text("b"),
        number("7", "007", 'table:number-rows-spanned="2"')
        + number("1", "01", 'table:number-columns-repeated="2"'),
        "<table:covered-table-cell/>" + text("x") + text("y"),
    )
    assert [list(row.values()) for row in read_table(path)] == [
        ["007", "01", "01"],
        ["007", "x", "y"],
    ]


def test_formulas_without_a_result_are_refused(write_ods):
    path = write_ods(text("id"), '<table:table-cell table:formula="of:=1+1"/>', number("1", "1"))
    with pytest.raises(TableError, match="1 formula without a stored result"):
        read_table(path)


def test_repeated_cells_are_limited_before_they_are_expanded(write_ods):
    row = (
        '<table:table-row table:number-rows-repeated="100000">'
        + number("1", "1", 'table:number-columns-repeated="1000"')
        + "</table:table-row>"
    )
    with pytest.raises(TableError, match="100,000,001 cells"):
        read_table(write_ods(text("id"), row))


def test_a_document_type_is_refused(write_ods):
    path = write_ods(text("id"), text("&e;"), start='<!DOCTYPE x [<!ENTITY e "boom">]>')
    with pytest.raises(TableError, match="damaged"):
        read_table(path)


def test_a_password_is_reported(write_ods):
    path = write_ods(text("id"), text("x"), manifest="<manifest:encryption-data/>")
    with pytest.raises(TableError, match="protected by a password"):
        read_table(path)


def test_hidden_rows_and_long_numbers_are_counted_in_notes(write_ods):
    path = write_ods(
        text("id"),
        f'{ROW} table:visibility="filter">{number("1234567890123450", "1")}</table:table-row>',
        f'{ROW} table:visibility="collapse"><table:table-cell/></table:table-row>',
        number("7", "7"),
    )
    table = read_table(path)
    assert [row["id"] for row in table] == [1234567890123450, 7]
    assert table.notes[1] == "hidden rows, read like all others: 1"
    assert table.notes[2].startswith("numbers of more than 15 digits: 1 (")
