"""Writing of XLSX files, row by row; no cell is a formula."""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medtask.errors import UsageError
from medtask.tables.cell_values import format_cell
from medtask.tables.formula_escapes import escape_formula
from medtask.tables.table import Column

_MAX_ROWS = 1_048_576
_MAX_COLUMNS = 16_384
_MAX_CELL_LENGTH = 32_767  # in UTF-16 units
_MAX_DIGITS = 15  # longer numbers lose digits in Excel
_FORMAT_REMEDY = "write CSV, JSONL or Parquet instead"

_ILLEGAL_CHARACTER = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_excel(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Write one sheet named "answers".

    Raises:
        UsageError: The sheet cannot hold the rows, the columns or the text of a cell.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError

    if len(columns) > _MAX_COLUMNS:
        raise UsageError(
            f"{len(columns):,} columns do not fit into XLSX: the limit is {_MAX_COLUMNS:,}",
            fix=_FORMAT_REMEDY,
        )
    # xlsxwriter buffers rows in a temporary file. It is placed next to the table, because the
    # temporary folder of the system is shared between users.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".xlsx-") as buffer_folder:
        try:
            with Workbook(str(path), {"constant_memory": True, "tmpdir": buffer_folder}) as book:
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
            raise error.args[0] from None  # the underlying OSError


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
    """Escape formulas and drop characters that XML forbids."""
    text = escape_formula(_ILLEGAL_CHARACTER.sub("", text))
    if len(text) > _MAX_CELL_LENGTH // 2 and len(text.encode("utf-16-le")) > 2 * _MAX_CELL_LENGTH:
        from xlsxwriter.utility import xl_rowcol_to_cell

        cell = xl_rowcol_to_cell(row, column)
        problem = (
            f"the text for cell {cell} has more than {_MAX_CELL_LENGTH:,} characters, the "
            "limit of a cell in XLSX"
        )
        raise UsageError(problem, fix=_FORMAT_REMEDY)
    return text
