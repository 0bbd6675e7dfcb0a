"""Reading of workbooks (XLSX, ODS, XLS): one sheet, checked before it is unpacked."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medtask.display import format_count, quote, quote_names, suggest
from medtask.tables.binary_files import inspect_file
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
from medtask.tables.workbook_check import WORKBOOK, list_visible_sheets, open_workbook
from medtask.tables.workbook_xml import MergedArea, SheetFacts

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

_CHECK = "medtask.tables.workbook_check"
_MAX_EXACT_INTEGER = 2**53


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


def read_workbook(path: Path, options: ReadOptions = DEFAULT_READ_OPTIONS) -> TablePart:
    """Open the named sheet, or the first visible one with content.

    The header is the named row, or the first one that is not empty. Whole numbers become int, dates
    ISO strings, cells with an Excel error None.
    """
    inspected = _inspect(path, options.sheet)
    with open_workbook(path) as workbook:
        names = workbook.sheet_names
        previews = {
            name: _preview_sheet(workbook, name, options.header_row)
            for name in list_visible_sheets(workbook)
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
    facts = inspected[name]
    _check_formulas(path, facts)
    if merged_areas := preview.merged_areas or len(facts.merged):
        notes.append(
            f"merged areas: {merged_areas:,} (in each of their rows the first cell has the value)"
        )
    if facts.note and any(type(cell) is int for _, cells in preview.rows for cell in cells):
        notes.append(facts.note)
    notes += facts.describe()
    shown: dict[int, list[tuple[int, object]]] = {}
    for number, column, text in facts.shown:
        shown.setdefault(number, []).append((column, text))
    columns = header.columns

    def rows(stats: ReadStats) -> Iterator[Row]:
        _inspect(path, options.sheet)  # again if the file has changed
        with open_workbook(path) as workbook:
            selected = workbook.get_sheet_by_name(name)
            # Rows are complete from row 1, but begin in the first column that is used.
            first_column = selected.start[1] if selected.start else 0
            areas = selected.merged_cell_ranges or facts.merged
            merged = _MergedCells(areas, header.row, first_column)
            for number, cells in _iter_filled_rows(selected, stats, after_row=header.row):
                # First the ids as they are shown, which all rows of a merged area have.
                _write_shown(cells, shown.get(number, ()), first_column)
                merged.fill(number, cells)
                for place, cell in enumerate(cells[len(columns) :], len(columns) + 1):
                    if cell is not None and str(cell).strip():
                        raise make_unnamed_column_error(
                            header, format_place(path, number, name), place
                        )
                yield dict(zip(columns, cells, strict=False))

    return TablePart(
        columns,
        (*notes, *header.notes),
        rows,
        sheet="" if filled[:1] == [name] else name,
        header=header,
        from_spreadsheet=True,
    )


def _inspect(path: Path, named_sheet: str | None) -> dict[str, SheetFacts]:
    """The facts about the sheets that can be chosen. Raises TableError for a damaged workbook."""
    found = inspect_file(path, WORKBOOK, f"{_CHECK}:inspect_workbook", named_sheet)
    return {name: SheetFacts(**facts) for name, facts in cast(dict[str, Any], found).items()}


def _check_formulas(path: Path, facts: SheetFacts) -> None:
    """Raise TableError if formulas have no stored result: their cells would be read as empty."""
    count, first = facts.formulas
    if count:
        place = f" (the first is in cell {first})" if first else ""
        raise make_table_error(
            path,
            f"{format_count(count, 'formula')} without a stored result{place}",
            fix="open the workbook in Excel or LibreOffice, save it there, and try again",
        )


def _write_shown(
    cells: list[object], shown: Sequence[tuple[int, object]], first_column: int
) -> None:
    """Write numbers with leading zeros or fixed letters as they are shown, and booleans."""
    for column, text in shown:
        place = column - first_column
        if 0 <= place < len(cells) and isinstance(cells[place], int):
            cells[place] = text


class _MergedCells:
    """Merged areas below the header: a file has their value in their first row only.

    The areas of a column do not overlap. In a file that says so, a later one ends an earlier one.
    """

    def __init__(self, areas: Iterable[MergedArea], header_row: int, first_column: int) -> None:
        # For each row, from 1: the places of cells in which an area begins, and its last row.
        self._begins: dict[int, list[tuple[int, int]]] = {}
        # For each place in an area: its last row, and its value.
        self._open: dict[int, tuple[int, object]] = {}
        for (first, column), (last, _) in areas:
            if first >= header_row and column >= first_column:
                area = (column - first_column, last + 1)
                self._begins.setdefault(first + 1, []).append(area)

    def fill(self, row: int, cells: list[object]) -> None:
        """Write the values of areas that began in an earlier row into a row's cells."""
        for place, (last, value) in list(self._open.items()):
            if last < row:
                del self._open[place]
            elif cells[place] is None:
                cells[place] = value
        for place, last in self._begins.get(row, ()):
            if place < len(cells):
                self._open[place] = (last, cells[place])


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
