"""XLSX: one sheet as a table, checked before it is unpacked."""

from __future__ import annotations

import datetime
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medtask.data.source import (
    Row,
    Source,
    Tally,
    did_you_mean,
    list_names,
    name_columns,
    nameless_note,
    nameless_value,
    table_error,
)
from medtask.errors import TableError

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

LARGEST_EXPANDED = 200 * 2**20
"""Bytes that the parts of a workbook may have together, unpacked."""

# what Excel wraps around a workbook with a password, and all of an old .xls
_OLE = b"\xd0\xcf\x11\xe0"
_EXACT_IN_FLOAT = 2**53
_SHEET = re.compile(rb'<(?:\w+:)?sheet [^>]*:id="([^"]+)"')
_RELATION = re.compile(rb"<(?:\w+:)?Relationship [^>]*>")
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
class _Look:
    """A sheet's header, with its row number, and how many areas of merged cells the sheet has. An
    empty sheet has no header.
    """

    line: int
    header: tuple[object, ...]
    merged: int


def read_excel(path: Path, sheet: str | None = None) -> Source:
    """The named sheet, or else the first visible one with anything in it. The first row that is not
    empty is the header.

    Whole numbers become int, dates ISO strings, cells with an Excel error None.
    """
    _check_archive(path)
    with _open_workbook(path) as workbook:
        names = workbook.sheet_names
        looks = {
            name: _look_at_sheet(workbook.get_sheet_by_name(name))
            for name in _visible_sheets(workbook)
        }
        filled = [name for name, look in looks.items() if look.header]
        if sheet is not None and sheet not in names:
            fix = did_you_mean(sheet, names) or f"it has {list_names(names)}"
            raise table_error(path, f"there is no sheet {list_names([sheet])}", fix=fix)
        if sheet is None and not filled:
            raise table_error(
                path,
                "no visible sheet has anything in it",
                fix="show the sheet with the table, or name it",
            )
        name = sheet or filled[0]
        look = looks.get(name) or _look_at_sheet(workbook.get_sheet_by_name(name))
    notes = [f"sheet {list_names([name])}"]
    if ignored := [other for other in filled if other != name]:
        notes.append(f"not read: sheet{'s' if len(ignored) > 1 else ''} {list_names(ignored)}")
    if look.merged:
        notes.append(f"merged areas: {look.merged:,} (only the first cell of each has the value)")
    if errors := _count_error_cells(path, names.index(name)):
        notes.append(f"cells with an Excel error such as #N/A, read as missing: {errors:,}")
    columns = name_columns(
        path, ["" if cell is None else str(cell) for cell in look.header], look.line
    )

    def rows(tally: Tally) -> Iterator[Row]:
        with _open_workbook(path) as workbook:
            for number, cells in _filled_rows(
                workbook.get_sheet_by_name(name), tally, above=look.line
            ):
                for place, cell in enumerate(cells[len(columns) :], len(columns) + 1):
                    if cell is not None:
                        raise nameless_value(path, place, number)
                yield dict(zip(columns, cells, strict=False))

    return Source(
        columns,
        (*notes, *nameless_note(columns, look.header)),
        rows,
        variant="" if filled[:1] == [name] else name,
    )


def _visible_sheets(workbook: CalamineWorkbook) -> list[str]:
    from python_calamine import SheetTypeEnum, SheetVisibleEnum

    shown = (SheetTypeEnum.WorkSheet, SheetVisibleEnum.Visible)
    return [sheet.name for sheet in workbook.sheets_metadata if (sheet.typ, sheet.visible) == shown]


def _look_at_sheet(sheet: CalamineSheet) -> _Look:
    line, header = next(_filled_rows(sheet, Tally()), (1, []))
    return _Look(line, tuple(header), len(sheet.merged_cell_ranges or ()))


def _filled_rows(
    sheet: CalamineSheet, tally: Tally, above: int = 0
) -> Iterator[tuple[int, list[object]]]:
    """The rows below row ``above`` with their numbers. A row without any value is no row, but it is
    counted.
    """
    for number, cells in enumerate(sheet.iter_rows(), 1):
        if number <= above:
            continue
        values = [_plain_cell(cell) for cell in cells]
        if any(value is not None for value in values):
            yield number, values
        else:
            tally.blank_lines += 1


def _plain_cell(cell: object) -> object:
    if cell == "":
        return None
    if isinstance(cell, float) and cell.is_integer() and abs(cell) <= _EXACT_IN_FLOAT:
        return int(cell)
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    return str(cell) if isinstance(cell, datetime.timedelta) else cell


def _check_archive(path: Path) -> None:
    """Refuses what is no workbook, is damaged, or would grow too big: told from the archive's
    directory, nothing unpacked.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
        if head == _OLE:
            problem = (
                "the workbook is protected with a password, or it is an old .xls under a new name"
            )
            raise table_error(path, problem, fix="save it in Excel as .xlsx without a password")
        with zipfile.ZipFile(path) as archive:
            expanded = sum(part.file_size for part in archive.infolist())
            if expanded > LARGEST_EXPANDED:
                problem = (
                    f"unpacked it has {expanded >> 20:,} MB; the most is "
                    f"{LARGEST_EXPANDED >> 20} MB"
                )
                raise table_error(path, problem, fix="save the sheet as CSV")
            # The directory can lie about sizes: what a part has beyond its own is found here, by
            # its checksum.
            if (damaged := archive.testzip()) is not None:
                raise zipfile.BadZipFile(damaged)
    except PermissionError as error:
        raise table_error(
            path, "you may not read this file", fix="ask its owner for read access"
        ) from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise _damaged(path) from error


@contextmanager
def _open_workbook(path: Path) -> Iterator[CalamineWorkbook]:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        with CalamineWorkbook.from_path(path) as workbook:
            yield workbook
    except (CalamineError, OSError) as error:
        raise _damaged(path) from error


def _count_error_cells(path: Path, index: int) -> int:
    """How many cells of the sheet with that place in the workbook hold an Excel error.

    Raises TableError for formulas that nobody has computed: their cells would read as empty without
    a word.
    """
    with zipfile.ZipFile(path) as archive:
        try:
            relation = _SHEET.findall(archive.read("xl/workbook.xml"))[index]
            relations = (
                dict(_ATTRIBUTE.findall(found))
                for found in _RELATION.findall(archive.read("xl/_rels/workbook.xml.rels"))
            )
            target = next(
                found[b"Target"] for found in relations if found[b"Id"] == relation
            ).decode()
            cells = archive.read(target.lstrip("/") if target.startswith("/") else f"xl/{target}")
        except (LookupError, StopIteration) as error:
            raise _damaged(path) from error
    if any(mark in cells for mark in _FORMULA_MARKS) and (
        formulas := _FORMULA_WITHOUT_VALUE.findall(cells)
    ):
        problem = (
            f"{len(formulas):,} formulas have no stored result (the first is in cell "
            f"{formulas[0].decode()})"
        )
        raise table_error(
            path,
            problem,
            fix="open the workbook in Excel or LibreOffice, save it there, and try again",
        )
    return len(_ERROR_CELL.findall(cells)) if b't="e"' in cells else 0


def _damaged(path: Path) -> TableError:
    return table_error(
        path, "the file is cut off, damaged, or no XLSX workbook", fix="copy or export it again"
    )
