"""Text that a spreadsheet could run as a formula: escaped in files for people, and read back.

The escape is an apostrophe before the text (OWASP, CSV injection). A user can have typed the same,
so a file with escaped text has one more column, `ESCAPE_COLUMN`, which marks the rows that medtask
wrote. It survives renaming, moving, sorting and saving in a spreadsheet. Tables without it are left
as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from medtask.tables.cell_values import is_blank
from medtask.tables.table_part import Row, TablePart, convert_rows

ESCAPE_COLUMN = "medtask_escaped"
"""Name of the column that marks rows with escaped text; added only if a file has such text."""

_MARK = "yes"
# Text that starts with an apostrophe is escaped too; otherwise "'=1" and an escaped "=1" would be
# equal.
_FORMULA_START = re.compile("'*[=+\\-@\t\r\0]")
_FORMULA_CHARACTERS = frozenset("=+-@\t\r\0'")
_INVISIBLE_START = re.compile("^[\0-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]+")


def escape_formula(text: str) -> str:
    """The text, with an apostrophe before it if a spreadsheet could run it as a formula."""
    return f"'{text}" if _needs_escape(text) else text


def unescape_formula(text: str) -> str:
    """The inverse of `escape_formula`."""
    return text[1:] if text.startswith("'") and _FORMULA_START.match(text) else text


def _needs_escape(text: str) -> bool:
    return bool(text) and text[0] in _FORMULA_CHARACTERS and bool(_FORMULA_START.match(text))


def mark_escaped_rows(
    names: Sequence[str], rows: Iterable[Sequence[object]]
) -> tuple[list[str], Iterable[Sequence[object]]]:
    """The names and rows, with `ESCAPE_COLUMN` if a name or a cell is escaped.

    ``rows`` are iterated twice.
    """
    if not (any(map(_needs_escape, names)) or any(map(_has_escapes, rows))):
        return list(names), rows
    marked = ([*row, _MARK if _has_escapes(row) else None] for row in rows)
    return [*names, ESCAPE_COLUMN], marked


def _has_escapes(row: Sequence[object]) -> bool:
    # Formats drop characters that they cannot store, which may uncover a formula.
    return any(
        isinstance(cell, str)
        and not cell[:1].isalnum()  # most cells: saves the search
        and _needs_escape(_INVISIBLE_START.sub("", cell) or cell)
        for cell in row
    )


def undo_escapes(part: TablePart) -> TablePart:
    """The file without `ESCAPE_COLUMN` and with the original text, if it has this column."""
    if ESCAPE_COLUMN not in part.columns:
        return part
    names = {column: unescape_formula(column) for column in part.columns if column != ESCAPE_COLUMN}

    def unescape_row(row: Row) -> Row:
        escaped = not is_blank(row[ESCAPE_COLUMN])
        return {
            name: unescape_formula(cell) if escaped and isinstance(cell, str) else cell
            for name, cell in ((names[column], row[column]) for column in names)
        }

    return convert_rows(part, names.values(), unescape_row)
