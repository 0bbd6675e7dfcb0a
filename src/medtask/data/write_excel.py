"""XLSX out, row by row. Every cell has a type and none is a formula."""

from __future__ import annotations

import itertools
import math
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medtask.data.guard import guard
from medtask.data.table import Column
from medtask.data.values import text_of
from medtask.errors import UsageError

_MOST_ROWS = 1_048_576
_MOST_COLUMNS = 16_384
_LONGEST_CELL = 32_767  # in UTF-16 units
_MOST_DIGITS = 15  # a longer number loses its end in Excel
_OTHER_FORMAT = "write CSV, JSONL or Parquet instead"

_ILLEGAL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def write_excel(path: Path, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """One sheet, "answers". Raises UsageError for more rows, columns or text in a cell than a sheet
    can hold.
    """
    from xlsxwriter import Workbook
    from xlsxwriter.exceptions import FileCreateError

    if len(columns) > _MOST_COLUMNS:
        raise UsageError(
            f"{len(columns):,} columns do not fit into XLSX: the most is {_MOST_COLUMNS:,}",
            fix=_OTHER_FORMAT,
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
                    if number >= _MOST_ROWS:
                        raise UsageError(
                            f"more than {_MOST_ROWS - 1:,} rows do not fit into XLSX",
                            fix=_OTHER_FORMAT,
                        )
                    for place, value in enumerate(row):
                        _write_cell(sheet, number, place, value)
        except FileCreateError as error:
            raise error.args[0] from None  # the OSError that says what is wrong with the disk


def _write_cell(sheet: Any, row: int, place: int, value: object) -> None:
    if isinstance(value, bool):
        sheet.write_boolean(row, place, value)
    elif isinstance(value, float):
        if math.isfinite(value):
            sheet.write_number(row, place, value)
    elif isinstance(value, int) and abs(value) < 10**_MOST_DIGITS:
        sheet.write_number(row, place, value)
    elif value is not None:
        sheet.write_string(row, place, _fit_cell(text_of(value), row, place))


def _fit_cell(text: str, row: int, place: int) -> str:
    """Characters that XML forbids are dropped."""
    text = guard(_ILLEGAL.sub("", text))
    if len(text) > _LONGEST_CELL // 2 and len(text.encode("utf-16-le")) > 2 * _LONGEST_CELL:
        from xlsxwriter.utility import xl_rowcol_to_cell

        cell = xl_rowcol_to_cell(row, place)
        problem = (
            f"the text for cell {cell} has more than {_LONGEST_CELL:,} characters, the "
            "most for a cell of XLSX"
        )
        raise UsageError(problem, fix=_OTHER_FORMAT)
    return text
