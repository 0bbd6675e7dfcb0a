"""One file of a table, and errors of table files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from medtask.errors import TableError
from medtask.tables.header import Header, format_place
from medtask.tables.read_options import ReadOptions
from medtask.unicode_text import remove_noise

Row = Mapping[str, object]


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
        header: Its row of column names; None for formats without one.
        from_spreadsheet: Whether it is a workbook, or CSV as Excel writes it in most of Europe:
            with a byte order mark, semicolons, or in a code page of Windows.
        height: Number of its rows, if it is known without reading them.
        rows_after: Function that iterates over the rows after the first ones, whose number it
            receives, without reading those; None if the format has no way to.
    """

    columns: tuple[str, ...]
    notes: tuple[str, ...]
    rows: Callable[[ReadStats], Iterator[Row]]
    sheet: str = ""
    guess_note: str = ""
    header: Header | None = None
    from_spreadsheet: bool = False
    height: int | None = None
    rows_after: Callable[[int], Iterator[Row]] | None = None


def convert_rows(
    part: TablePart, columns: Iterable[str], convert: Callable[[Row], Row]
) -> TablePart:
    """The file with other columns, which ``convert`` makes of each row."""
    read_after = part.rows_after

    def rows(stats: ReadStats) -> Iterator[Row]:
        return map(convert, part.rows(stats))

    def rows_after(skipped: int) -> Iterator[Row]:
        assert read_after is not None
        return map(convert, read_after(skipped))

    return replace(
        part,
        columns=tuple(columns),
        rows=rows,
        rows_after=rows_after if read_after is not None else None,
    )


def make_table_error(path: Path, problem: str, *, fix: str, line: int | None = None) -> TableError:
    """An error of a file; ``line`` is 1-based."""
    return TableError(f"{format_place(path, line)}: {problem}", fix=fix)


def make_read_error(path: Path, error: OSError) -> TableError:
    """The error of a file that the operating system does not open or read."""
    if isinstance(error, PermissionError):
        return make_table_error(
            path, "no permission to read this file", fix="ask its owner for read access"
        )
    return make_table_error(
        path,
        f"cannot be read: {error.strerror or error}",
        fix="check that the file still exists",
    )


def refuse_header_row(path: Path, options: ReadOptions) -> None:
    """Raise TableError if a header row is named for a file whose format has none."""
    if options.header_row is not None:
        raise make_table_error(
            path, "its format has no header row", fix="remove the option --header-row"
        )


def collect_columns(path: Path, keys: Iterable[str]) -> tuple[str, ...]:
    """The columns of rows with keys: every key once, in order of appearance."""
    columns = tuple(dict.fromkeys(keys))
    if not columns:
        raise make_table_error(path, "there are no columns", fix="export it again")
    if not all(remove_noise(column).strip() for column in columns):
        raise make_table_error(path, "a column has no name", fix="name every column")
    return columns
