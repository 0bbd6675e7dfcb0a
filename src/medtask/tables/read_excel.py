"""Reading of XLSX files: one sheet, checked before it is unpacked."""

from __future__ import annotations

import datetime
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.display import quote, quote_names, suggest
from medtask.errors import TableError
from medtask.tables.excel_formats import list_shown_numbers, read_zero_formats
from medtask.tables.header import (
    SAMPLE_ROWS,
    Header,
    OtherHeader,
    clean_names,
    find_other_headers,
    format_place,
    make_unnamed_column_error,
    read_header,
)
from medtask.tables.read_options import DEFAULT_READ_OPTIONS, ReadOptions
from medtask.tables.table_part import ReadStats, Row, TablePart, make_table_error

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

MAX_UNPACKED_BYTES = 200 * 2**20
"""Maximum size of an unpacked workbook."""

# container format of encrypted workbooks and of old .xls files
_OLE_MAGIC = b"\xd0\xcf\x11\xe0"
_MAX_EXACT_INTEGER = 2**53
_SHEET_ELEMENT = re.compile(rb'<(?:\w+:)?sheet [^>]*:id="([^"]+)"')
_RELATION_ELEMENT = re.compile(rb"<(?:\w+:)?Relationship [^>]*>")
_ATTRIBUTE = re.compile(rb'(\w+)="([^"]*)"')
_ERROR_CELL = re.compile(rb'<(?:\w+:)?c [^>]*\bt="e"')
_FORMULA_MARKS = (b"<f>", b"<f ", b":f>", b":f ")
_FORMULA_WITHOUT_VALUE = re.compile(
    # a formula that gave "" has t="str"
    rb'<(?:\w+:)?c (?![^>]*\bt="str")[^>]*\br="([A-Z]+\d+)"[^>]*>\s*'
    rb"<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?\s*</(?:\w+:)?c>"
)


@dataclass(frozen=True, slots=True)
class _SheetPreview:
    """The first filled rows of a sheet, with their numbers, and its number of merged areas."""

    name: str
    rows: tuple[tuple[int, Sequence[object]], ...]
    merged_areas: int

    @property
    def columns(self) -> tuple[str, ...]:
        return clean_names(self.rows[0][1]) if self.rows else ()

    def find_headers(self) -> list[OtherHeader]:
        """Rows of this sheet that look like column names; its first row needs no --header-row."""
        option = f"--sheet {quote(self.name)}"
        found = find_other_headers(self.rows[1:], option)
        return [OtherHeader(option, self.columns), *found] if self.columns else []


def read_excel(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open the named sheet, or the first visible one with content.

    The header is the named row, or the first one that is not empty. Whole numbers become int, dates
    ISO strings, cells with an Excel error None.
    """
    _check_archive(path)
    with _open_workbook(path) as workbook:
        names = workbook.sheet_names
        previews = {
            name: _preview_sheet(workbook, name, options.header_row)
            for name in _list_visible_sheets(workbook)
        }
        filled = [name for name, preview in previews.items() if preview.rows]
        name = _choose_sheet(path, names, filled, options)
        preview = previews.get(name) or _preview_sheet(workbook, name, options.header_row)
    others = [previews[other] for other in filled if other != name]
    header = _read_sheet_header(path, preview, others, is_named=options.sheet is not None)
    notes = [f"sheet {quote(name)}"]
    if others:
        ignored = quote_names(other.name for other in others)
        notes.append(f"not read: sheet{'s' if len(others) > 1 else ''} {ignored}")
    if preview.merged_areas:
        notes.append(
            f"merged areas: {preview.merged_areas:,} (in each of their rows the first cell has the "
            "value)"
        )
    details = _read_sheet_details(path, names.index(name))
    if details.errors:
        notes.append(f"cells with an Excel error such as #N/A, read as missing: {details.errors:,}")
    columns = header.columns

    def rows(stats: ReadStats) -> Iterator[Row]:
        with _open_workbook(path) as workbook:
            selected = workbook.get_sheet_by_name(name)
            # Rows are complete from row 1, but begin in the first column that is used.
            first_column = selected.start[1] if selected.start else 0
            merged = _MergedCells(selected, header.row, first_column)
            for number, cells in _iter_filled_rows(selected, stats, after_row=header.row):
                merged.fill(number, cells)
                for place, cell in enumerate(cells[len(columns) :], len(columns) + 1):
                    if cell is not None and str(cell).strip():
                        raise make_unnamed_column_error(
                            header, format_place(path, number, name), place
                        )
                yield dict(zip(columns, details.apply(number, cells, first_column), strict=False))

    return TablePart(
        columns,
        (*notes, *header.notes),
        rows,
        sheet="" if filled[:1] == [name] else name,
        header=header,
    )


class _MergedCells:
    """Merged areas below the header: a file has their value in their first row only."""

    def __init__(self, sheet: CalamineSheet, header_row: int, first_column: int) -> None:
        self._values: dict[int, object] = {}
        # For each row, from 1, the places of cells in an area, and whether the area begins there.
        self._areas: dict[int, list[tuple[int, bool]]] = {}
        for (first, column), (last, _) in sheet.merged_cell_ranges or ():
            if first >= header_row and column >= first_column:
                for row in range(first, last + 1):
                    place = (column - first_column, row == first)
                    self._areas.setdefault(row + 1, []).append(place)

    def fill(self, row: int, cells: list[object]) -> None:
        """Write the values of areas that began in an earlier row into a row's cells."""
        for place, is_first in self._areas.get(row, ()):
            if place >= len(cells):
                continue
            if is_first:
                self._values[place] = cells[place]
            elif cells[place] is None:
                cells[place] = self._values.get(place)


def _choose_sheet(
    path: Path, names: Sequence[str], filled: Sequence[str], options: ReadOptions
) -> str:
    """The named sheet, or the first visible one with content."""
    sheet = options.sheet
    if sheet is not None and sheet not in names:
        fix = suggest(sheet, names) or f"it has {quote_names(names)}"
        raise make_table_error(path, f"sheet {quote(sheet)} not found", fix=fix)
    if sheet is None and not filled:
        rows = f" from row {options.header_row} on" if options.header_row else ""
        fix = "unhide the sheet with the table, or name it with --sheet"
        raise make_table_error(path, f"no visible sheet has content{rows}", fix=fix)
    return sheet or filled[0]


def _read_sheet_header(
    path: Path, preview: _SheetPreview, others: Sequence[_SheetPreview], *, is_named: bool
) -> Header:
    """The header of the sheet.

    Raises:
        TableError: It is not usable, or the default sheet has one column, such as a cover sheet,
            and another sheet has several.
    """
    row, cells = preview.rows[0] if preview.rows else (1, ())
    below = preview.rows[1:]
    in_other_sheets = [header for other in others for header in other.find_headers()]
    place = format_place(path, row, preview.name)
    own = find_other_headers(below, f"--sheet {quote(preview.name)}" if is_named else "")
    header = read_header(place, row, cells, [*own, *in_other_sheets])
    header.check_width(below)
    wider = [other for other in in_other_sheets if len(other.columns) > 1]
    if not is_named and len(header.columns) == 1 and wider:
        raise header.make_error(wider[0])
    return header


def _list_visible_sheets(workbook: CalamineWorkbook) -> list[str]:
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    shown = (SheetTypeEnum.WorkSheet, SheetVisibleEnum.Visible)
    return [sheet.name for sheet in workbook.sheets_metadata if (sheet.typ, sheet.visible) == shown]


def _preview_sheet(workbook: CalamineWorkbook, name: str, header_row: int | None) -> _SheetPreview:
    sheet = workbook.get_sheet_by_name(name)
    filled = _iter_filled_rows(sheet, ReadStats(), (header_row or 1) - 1)
    return _SheetPreview(
        name, tuple(islice(filled, SAMPLE_ROWS)), len(sheet.merged_cell_ranges or ())
    )


def _iter_filled_rows(
    sheet: CalamineSheet, stats: ReadStats, after_row: int = 0
) -> Iterator[tuple[int, list[object]]]:
    """Rows below row ``after_row`` with their numbers; rows without values are only counted."""
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if number <= after_row:
            continue
        values = [_convert_cell(cell) for cell in cells]
        if any(value is not None for value in values):
            yield number, values
        else:
            stats.blank_lines += 1


def _convert_cell(cell: object) -> object:
    if cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) <= _MAX_EXACT_INTEGER:
        return int(cell)
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, datetime.timedelta) else cell


def _check_archive(path: Path) -> None:
    """Raise TableError for files that are not workbooks, damaged, or too large when unpacked."""
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
        if head == _OLE_MAGIC:
            problem = (
                "the workbook is protected by a password, or an old .xls file with a new suffix"
            )
            raise make_table_error(
                path, problem, fix="save it in Excel as .xlsx without a password"
            )
        with zipfile.ZipFile(path) as archive:
            expanded = sum(part.file_size for part in archive.infolist())
            if expanded > MAX_UNPACKED_BYTES:
                problem = (
                    f"unpacked it has {expanded >> 20:,} MB; the limit is "
                    f"{MAX_UNPACKED_BYTES >> 20} MB"
                )
                raise make_table_error(path, problem, fix="save the sheet as CSV")
            # The directory may state wrong sizes: the checksums detect that.
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(damaged)
    except PermissionError as error:
        raise make_table_error(
            path, "no permission to read this file", fix="ask its owner for read access"
        ) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise _make_damaged_error(path) from error


@contextmanager
def _open_workbook(path: Path) -> Iterator[CalamineWorkbook]:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_path(path) as workbook:
            yield workbook
    except (CalamineError, OSError) as error:
        raise _make_damaged_error(path) from error


@dataclass(frozen=True, slots=True)
class _SheetDetails:
    """What the reader of workbooks does not report: error cells, and numbers as they are shown."""

    errors: int
    shown: Mapping[int, Mapping[int, str]]

    def apply(self, row: int, cells: list[object], first_column: int) -> list[object]:
        """The cells of a row, with numbers that have leading zeros or fixed letters as shown."""
        for column, text in self.shown.get(row, {}).items():
            place = column - first_column
            if place < len(cells) and isinstance(cells[place], int):
                cells[place] = text
        return cells


def _read_sheet_details(path: Path, index: int) -> _SheetDetails:
    """The details of the sheet at ``index``.

    Raises:
        TableError: Formulas have no stored result; their cells would be read as empty.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            relation = _SHEET_ELEMENT.findall(archive.read("xl/workbook.xml"))[index]
            relations = (
                dict(_ATTRIBUTE.findall(found))
                for found in _RELATION_ELEMENT.findall(archive.read("xl/_rels/workbook.xml.rels"))
            )
            target = next(
                found[b"Target"] for found in relations if found[b"Id"] == relation
            ).decode()
            cells = archive.read(target.lstrip("/") if target.startswith("/") else f"xl/{target}")
        except (LookupError, StopIteration) as error:
            raise _make_damaged_error(path) from error
        has_styles = "xl/styles.xml" in archive.namelist()
        formats = read_zero_formats(archive.read("xl/styles.xml")) if has_styles else {}
    if any(mark in cells for mark in _FORMULA_MARKS) and (
        formulas := _FORMULA_WITHOUT_VALUE.findall(cells)
    ):
        problem = (
            f"{len(formulas):,} formulas have no stored result (the first is in cell "
            f"{formulas[0].decode()})"
        )
        raise make_table_error(
            path,
            problem,
            fix="open the workbook in Excel or LibreOffice, save it there, and try again",
        )
    shown: dict[int, dict[int, str]] = {}
    for row, column, text in list_shown_numbers(cells, formats) if formats else ():
        shown.setdefault(row, {})[column] = text
    errors = len(_ERROR_CELL.findall(cells)) if b't="e"' in cells else 0
    return _SheetDetails(errors, shown)


def _make_damaged_error(path: Path) -> TableError:
    return make_table_error(
        path,
        "the file is truncated, damaged, or not an XLSX workbook",
        fix="copy or export it again",
    )
