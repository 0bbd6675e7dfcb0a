"""One file of a table, and errors of table files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtask.display import format_path, quote_names
from medtask.errors import TableError
from medtask.tables.read_options import ReadOptions

Row = dict[str, object]


@dataclass(slots=True)
class ReadStats:
    """Counts of skipped lines in one pass over a table."""

    blank_lines: int = 0


@dataclass(frozen=True, slots=True)
class TablePart:
    """One file of a table.

    Attributes:
        columns: Names of the columns.
        notes: Facts about the file for users.
        rows: Function that iterates over the rows.
        sheet: Name of the selected sheet; "" for the default sheet.
        guess_note: What was guessed about the file; "" if nothing was.
    """

    columns: tuple[str, ...]
    notes: tuple[str, ...]
    rows: Callable[[ReadStats], Iterator[Row]]
    sheet: str = ""
    guess_note: str = ""


def make_table_error(path: Path, problem: str, *, fix: str, line: int | None = None) -> TableError:
    """An error of a file; ``line`` is 1-based (in a spreadsheet: the row)."""
    where = format_path(path) if line is None else f"{format_path(path)}, line {line}"
    return TableError(f"{where}: {problem}", fix=fix)


def refuse_header_row(path: Path, options: ReadOptions) -> None:
    """Raise TableError if a header row is named for a file whose format has none."""
    if options.header_row is not None:
        raise make_table_error(
            path, "its format has no header row", fix="remove the option --header-row"
        )


def read_column_names(path: Path, cells: Sequence[str], line: int | None = None) -> tuple[str, ...]:
    """The column names of a header, without empty cells at its end.

    Raises:
        TableError: A name is blank or occurs twice.
    """
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    if not names:
        raise make_table_error(
            path,
            "there are no column names",
            fix="put the column names in the first row",
            line=line,
        )
    if blank := [str(number) for number, name in enumerate(names, 1) if not name]:
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
    """The columns of rows with keys: every key once, in order of appearance."""
    columns = tuple(dict.fromkeys(keys))
    if not columns:
        raise make_table_error(path, "there are no columns", fix="export it again")
    if not all(column.strip() for column in columns):
        raise make_table_error(path, "a column has no name", fix="name every column")
    return columns


def describe_unnamed_columns(columns: Sequence[str], cells: Sequence[object]) -> tuple[str, ...]:
    """A note about empty header cells at the end, or nothing."""
    count = len(cells) - len(columns)
    return (
        (f"{count} empty column{'s' if count > 1 else ''} without a name left out",)
        if count
        else ()
    )


def make_unnamed_column_error(path: Path, column: int, line: int) -> TableError:
    """The error for a value in a column without a name; ``column`` is 1-based."""
    return make_table_error(
        path,
        f"there is a value in column {column}, which has no name",
        fix="name that column in the first row",
        line=line,
    )
