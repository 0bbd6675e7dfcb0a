"""Writing of XLSX files, row by row; no cell is a formula."""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtask.display import format_count
from medtask.errors import UsageError
from medtask.tables.cell_values import format_cell
from medtask.tables.formula_escapes import escape_formula
from medtask.tables.table import Column

_MAX_ROWS = 1_048_576
_MAX_COLUMNS = 16_384
_MAX_DIGITS = 15  # longer numbers lose digits in Excel
_FORMAT_REMEDY = "write CSV, JSONL or Parquet instead"

MAX_CELL_LENGTH = 32_767
"""Maximum length of a text in a cell, in UTF-16 units."""

_ILLEGAL_CHARACTER = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(slots=True)
class _ExcelLosses:
    """Counts of cells whose text XLSX cannot hold in full."""

    cut: int = 0
    cleaned: int = 0

    def describe(self) -> tuple[str, ...]:
        notes = []
        if self.cut:
            notes.append(
                f"{format_count(self.cut, 'cell')} cut to {MAX_CELL_LENGTH:,} characters, the "
                "limit of XLSX; the other formats have the whole text"
            )
        if self.cleaned:
            notes.append(
                f"control characters that XLSX does not allow left out of "
                f"{format_count(self.cleaned, 'cell')}"
            )
        return tuple(notes)


def check_excel_size(rows: int, columns: int) -> None:
    """Raise UsageError if a sheet cannot hold so many rows, without the header, or columns."""
    if rows >= _MAX_ROWS:
        raise UsageError(
            f"more than {_MAX_ROWS - 1:,} rows do not fit into XLSX", fix=_FORMAT_REMEDY
        )
    if columns > _MAX_COLUMNS:
        raise UsageError(
            f"{columns:,} columns do not fit into XLSX: the limit is {_MAX_COLUMNS:,}",
            fix=_FORMAT_REMEDY,
        )


def measure_excel_text(text: str) -> int:
    """The length of a text as XLSX counts it, in UTF-16 units."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def write_excel(
    path: Path, columns: Sequence[Column], rows: Iterable[Sequence[object]]
) -> tuple[str, ...]:
    """Write one sheet named "answers"; longer texts are cut, with a mark at their end.

    Returns:
        Notes about texts that are not in the file in full.

    Raises:
        UsageError: The sheet cannot hold the rows or the columns.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError

    check_excel_size(0, len(columns))
    losses = _ExcelLosses()
    # xlsxwriter buffers rows in a temporary file. It is placed next to the table, because the
    # temporary folder of the system is shared between users.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".xlsx-") as buffer_folder:
        try:
            with Workbook(str(path), {"constant_memory": True, "tmpdir": buffer_folder}) as book:
                sheet = book.add_worksheet("answers")
                for number, row in enumerate(
                    itertools.chain([[column.name for column in columns]], rows)
                ):
                    check_excel_size(number, len(columns))
                    for column_index, value in enumerate(row):
                        _write_cell(sheet, number, column_index, value, losses)
        except FileCreateError as error:
            raise error.args[0] from None  # the underlying OSError
    return losses.describe()


def _write_cell(sheet: Any, row: int, column: int, value: object, losses: _ExcelLosses) -> None:
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value)
    elif isinstance(value, float):
        if math.isfinite(value):
            sheet.write_number(row, column, value)
    elif isinstance(value, int) and abs(value) < 10**_MAX_DIGITS:
        sheet.write_number(row, column, value)
    elif value is not None:
        sheet.write_string(row, column, _prepare_text(format_cell(value), losses))


def _prepare_text(text: str, losses: _ExcelLosses) -> str:
    """Escape formulas, drop characters that XML forbids, and cut what is too long."""
    cleaned = _ILLEGAL_CHARACTER.sub("", text)
    losses.cleaned += len(cleaned) < len(text)
    escaped = escape_formula(cleaned)
    if len(escaped) <= MAX_CELL_LENGTH // 2 or measure_excel_text(escaped) <= MAX_CELL_LENGTH:
        return escaped
    losses.cut += 1
    mark = f" [cut: {len(cleaned):,} characters]"
    units = escaped.encode("utf-16-le")[: 2 * (MAX_CELL_LENGTH - len(mark))]
    return units.decode("utf-16-le", "ignore") + mark
