"""XLSX out, row by row. Every cell has a type and none is a formula."""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medtask.errors import UsageError
from medtask.tables.cell_values import escape_formula, format_cell
from medtask.tables.table import Column

_MAX_ROWS = 1_048_576
_MAX_COLUMNS = 16_384
_MAX_CELL_LENGTH = 32_767  # in UTF-16 units
_MAX_DIGITS = 15  # a longer number loses its end in Excel
_FORMAT_REMEDY = "write CSV, JSONL or Parquet instead"

_ILLEGAL_CHARACTER = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_excel(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """One sheet, "answers". Raises UsageError for more rows, columns or text in a cell than a sheet
    can hold.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError

    if len(columns) > _MAX_COLUMNS:
        raise UsageError(
            f"{len(columns):,} columns do not fit into XLSX: the most is {_MAX_COLUMNS:,}",
            fix=_FORMAT_REMEDY,
        )
    # Rows wait in a file of their own: beside the table, since the system's folder for such files
    # is everybody's.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".xlsx-") as waiting:
        try:
            with Workbook(str(path), {"constant_memory": True, "tmpdir": waiting}) as book:
                sheet = book.add_worksheet("answers")
                for number, row in enumerate(
                    itertools.chain([[column.name for column in columns]], rows)
                ):
                    if number >= _MAX_ROWS:
                        raise UsageError(
                            f"more than {_MAX_ROWS - 1:,} rows do not fit into XLSX",
                            fix=_FORMAT_REMEDY,
                        )
                    for column_index, value in enumerate(row):
                        _write_cell(sheet, number, column_index, value)
        except FileCreateError as error:
            raise error.args[0] from None  # the OSError that says what is wrong with the disk


def _write_cell(sheet: Any, row: int, column: int, value: object) -> None:
    if isinstance(value, bool):
        sheet.write_boolean(row, column, value)
    elif isinstance(value, float):
        if math.isfinite(value):
            sheet.write_number(row, column, value)
    elif isinstance(value, int) and abs(value) < 10**_MAX_DIGITS:
        sheet.write_number(row, column, value)
    elif value is not None:
        sheet.write_string(row, column, _prepare_text(format_cell(value), row, column))


def _prepare_text(text: str, row: int, column: int) -> str:
    """Characters that XML forbids are dropped."""
    text = escape_formula(_ILLEGAL_CHARACTER.sub("", text))
    if len(text) > _MAX_CELL_LENGTH // 2 and len(text.encode("utf-16-le")) > 2 * _MAX_CELL_LENGTH:
        from xlsxwriter.utility import xl_rowcol_to_cell

        cell = xl_rowcol_to_cell(row, column)
        problem = (
            f"the text for cell {cell} has more than {_MAX_CELL_LENGTH:,} characters, the "
            "most for a cell of XLSX"
        )
        raise UsageError(problem, fix=_FORMAT_REMEDY)
    return text
