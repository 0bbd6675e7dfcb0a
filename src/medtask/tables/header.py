"""The header of a file: its column names, and where they may be if they are not in that row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medtask.display import format_columns, format_path, quote, quote_names
from medtask.errors import TableError
from medtask.unicode_text import remove_noise

_MAX_NAME_LENGTH = 60
SAMPLE_ROWS = 20
"""Rows below the header that are searched for column names."""

Row = tuple[int, Sequence[object]]


@dataclass(frozen=True, slots=True)
class OtherHeader:
    """A row that may hold the column names; ``option`` is the command-line option that reads it."""

    option: str
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Header:
    """The row of column names.

    Attributes:
        place: The file, the sheet and the row, for messages.
        columns: Names of the columns, without empty cells at the end.
        width: Number of cells, including empty ones at the end.
        row: Its line (in a workbook: row), from 1.
        others: Other rows that may hold the column names.
    """

    place: str
    columns: tuple[str, ...]
    width: int
    row: int
    others: tuple[OtherHeader, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """A note about empty cells at the end, or nothing."""
        count = self.width - len(self.columns)
        return (
            (f"{count} empty column{'s' if count > 1 else ''} without a name left out",)
            if count
            else ()
        )

    def explain_missing(self, needed: Collection[str]) -> TableError | None:
        """The error for columns that are in another row or sheet; None if they are in none."""
        for other in self.others:
            if set(needed) <= set(other.columns):
                return self.make_error(other)
        return None

    def check_width(self, rows: Iterable[Row]) -> None:
        """Raise TableError if rows are wider than the header, and another row fits them."""
        named = len(self.columns)
        widest = max((len(clean_names(cells)) for _, cells in rows), default=0)
        if widest > named and (other := _find_wider(self.others, widest, named + 1)):
            raise self.make_error(other)

    def make_error(self, other: OtherHeader) -> TableError:
        """The error for column names that are in the other row."""
        return TableError(
            f"{self.place} was taken for the column names: {format_columns(self.columns)}. With "
            f"{other.option} they are {format_columns(other.columns)}",
            fix=f"add {other.option}",
        )


def format_place(path: Path, row: int | None = None, sheet: str = "") -> str:
    """A place in a file for messages: "t.csv, line 3", or 't.xlsx, sheet "Data", row 3'."""
    where = [format_path(path)]
    if sheet:
        where.append(f"sheet {quote(sheet)}")
    if row is not None:
        where.append(f"{'row' if sheet else 'line'} {row}")
    return ", ".join(where)


def read_header(
    place: str, row: int, cells: Sequence[object], others: Sequence[OtherHeader] = ()
) -> Header:
    """The header in these cells.

    Raises:
        TableError: A name is blank or occurs twice.
    """
    names = clean_names(cells)
    header = Header(place, names, len(cells), row, tuple(others))
    problem, fix = _find_fault(names)
    if not problem:
        return header
    # A title row has few texts. A row in which a name is forgotten or repeated has as many as the
    # rows of data, one of which could be taken for the header.
    filled = len({*names} - {""})
    widest = max((len(other.columns) for other in others), default=0)
    if filled <= max(1, widest - 2) and (wider := _find_wider(others, widest, max(2, len(names)))):
        raise header.make_error(wider)
    raise TableError(f"{place}: {problem}", fix=fix)


def _find_wider(others: Sequence[OtherHeader], width: int, min_width: int) -> OtherHeader | None:
    """The first header of this width; without one, the first of at least ``min_width``."""
    exact = (other for other in others if len(other.columns) == width >= min_width)
    wide = (other for other in others if len(other.columns) >= min_width)
    return next(exact, next(wide, None))


def _find_fault(names: Sequence[str]) -> tuple[str, str]:
    """What is wrong with the column names, and the remedy; empty texts if nothing is."""
    elsewhere = "; if the column names are in another row, add --header-row"
    if not names:
        return "there are no column names", "put the column names in the first row"
    if blank := [str(number) for number, name in enumerate(names, 1) if not name]:
        return (
            f"the header has no name for column {', '.join(blank)}",
            f"name every column in the first row{_describe_index(blank)}{elsewhere}",
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        return (
            f"the header names {quote_names(twice)} more than once",
            f"give every column its own name{elsewhere}",
        )
    return "", ""


def _describe_index(blank: Sequence[str]) -> str:
    is_index = list(blank) == ["1"]
    return " (pandas writes its index there: use to_csv(index=False))" if is_index else ""


def clean_names(cells: Iterable[object]) -> tuple[str, ...]:
    """Names in header cells without invisible characters and blanks, nor empty cells at the end."""
    names = ["" if cell is None else remove_noise(str(cell)).strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return tuple(names)


def find_other_headers(rows: Sequence[Row], option: str = "") -> list[OtherHeader]:
    """The rows that look like column names: two or more different texts, no number among them.

    Args:
        rows: Rows with their numbers, of which the first is not the one taken for the header.
        option: A further option that reads these rows, such as that of their sheet.
    """
    found = []
    for row, cells in rows:
        names = clean_names(cells)
        distinct = len(names) > 1 and all(names) and len(set(names)) == len(names)
        # Longer texts are not shown in messages: the row may be one of the data.
        short = all(len(name) <= _MAX_NAME_LENGTH for name in names)
        if distinct and short and not any(_is_number(name) for name in names):
            options = [option] * bool(option) + [f"--header-row {row}"]
            found.append(OtherHeader(" ".join(options), names))
    return found


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


def make_unnamed_column_error(header: Header, place: str, column: int) -> TableError:
    """The error for a value in a column without a name; ``column`` is 1-based."""
    return TableError(
        f"{place}: there is a value in column {column}, which has no name: the header in "
        f"{header.place} is {format_columns(header.columns)}",
        fix="name that column in the header; if the column names are in another row, add "
        "--header-row",
    )
