"""Text that a spreadsheet could run as a formula: escaped in files for people, and read back.

The escape is an apostrophe before the text (OWASP, CSV injection). A user can have typed the same,
so a file with escaped text has one more column, `ESCAPE_COLUMN`, which marks the rows that medtask
wrote. It survives renaming, moving, sorting and saving in a spreadsheet. Tables without it are left
as they are.
"""

from __future__ import annotations

import pickle
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from medtask.tables.cell_values import is_blank
from medtask.tables.table_part import ReadStats, Row, TablePart

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


@contextmanager
def mark_escaped_rows(
    folder: Path, names: Sequence[str], rows: Iterable[Sequence[object]]
) -> Iterator[tuple[list[str], Iterator[Sequence[object]]]]:
    """Yield names and rows, with `ESCAPE_COLUMN` if a name or a cell is escaped.

    Rows can be iterated once only and may be many: they are stored in an unnamed file in ``folder``
    until it is known whether the column is needed.
    """
    with tempfile.TemporaryFile(dir=folder, prefix=".rows-") as spool:
        needed, count = any(map(_needs_escape, names)), 0
        for row in rows:
            count += 1
            needed = needed or _has_escapes(row)
            pickle.dump(list(row), spool, protocol=pickle.HIGHEST_PROTOCOL)
        spool.seek(0)
        stored = (pickle.load(spool) for _ in range(count))  # noqa: S301 - written above
        if needed:
            yield (
                [*names, ESCAPE_COLUMN],
                ([*row, _MARK if _has_escapes(row) else None] for row in stored),
            )
        else:
            yield list(names), stored


def _has_escapes(row: Sequence[object]) -> bool:
    # Formats drop characters that they cannot store, which may uncover a formula.
    return any(
        isinstance(cell, str) and _needs_escape(_INVISIBLE_START.sub("", cell) or cell)
        for cell in row
    )


def undo_escapes(part: TablePart) -> TablePart:
    """The file without `ESCAPE_COLUMN` and with the original text, if it has this column."""
    if ESCAPE_COLUMN not in part.columns:
        return part
    names = {column: unescape_formula(column) for column in part.columns if column != ESCAPE_COLUMN}

    def rows(stats: ReadStats) -> Iterator[Row]:
        for row in part.rows(stats):
            escaped = not is_blank(row[ESCAPE_COLUMN])
            yield {
                name: unescape_formula(cell) if escaped and isinstance(cell, str) else cell
                for name, cell in ((names[column], row[column]) for column in names)
            }

    return replace(part, columns=tuple(names.values()), rows=rows)
