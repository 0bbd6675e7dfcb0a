"""One file of a table, once it was looked at; and the words in which its faults are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtask.display import format_path, quote_names
from medtask.errors import TableError

Row = dict[str, object]


@dataclass(slots=True)
class ReadStats:
    """What one pass over a table met that is not a row."""

    blank_lines: int = 0


@dataclass(frozen=True, slots=True)
class TablePart:
    """``notes``: what was found out about the file, for people. ``rows`` starts a pass over it, row
    by row.

    ``sheet``: which of several tables in the same file this is; "" for the one that is read
    unless asked otherwise.
    """

    columns: tuple[str, ...]
    notes: tuple[str, ...]
    rows: Callable[[ReadStats], Iterator[Row]]
    sheet: str = ""


def make_table_error(path: Path, problem: str, *, fix: str, line: int | None = None) -> TableError:
    """``line`` is 1-based and counts the file's own lines (in a spreadsheet: its rows)."""
    where = format_path(path) if line is None else f"{format_path(path)}, line {line}"
    return TableError(f"{where}: {problem}", fix=fix)


def read_column_names(path: Path, cells: Sequence[str], line: int | None = None) -> tuple[str, ...]:
    """The columns' names from a header's cells, without the nameless cells at its end.

    Raises TableError for a name that is blank or used twice.
    """
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise make_table_error(
            path,
            "there are no column names",
            fix="put the columns' names in the first row",
            line=line,
        )
    if blank := [str(place) for place, name in enumerate(names, 1) if not name]:
        problem = f"the header has no name for column {', '.join(blank)}"
        raise make_table_error(path, problem, fix="name every column in the first row", line=line)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise make_table_error(
            path,
            f"the header names {quote_names(twice)} more than once",
            fix="give every column its own name",
            line=line,
        )
    return tuple(names)


def collect_columns(path: Path, keys: Iterable[str]) -> tuple[str, ...]:
    """The columns of rows that name their own cells: every key once, in order of appearance,
    exactly as written.
    """
    columns = tuple(dict.fromkeys(keys))
    if not columns:
        raise make_table_error(path, "there are no columns", fix="export it again")
    if not all(column.strip() for column in columns):
        raise make_table_error(path, "a column has no name", fix="name every column")
    return columns


def describe_unnamed_columns(columns: Sequence[str], cells: Sequence[object]) -> tuple[str, ...]:
    """Tells that a header ended in nameless cells."""
    count = len(cells) - len(columns)
    return (
        (f"{count} nameless empty column{'s' if count > 1 else ''} at the end left out",)
        if count
        else ()
    )


def make_unnamed_column_error(path: Path, column: int, line: int) -> TableError:
    """The fault of a row that has a value where the header has no name. ``column`` is 1-based."""
    return make_table_error(
        path,
        f"there is a value in column {column}, which has no name",
        fix="name that column in the first row",
        line=line,
    )
